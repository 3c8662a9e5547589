"""Kinds of faults that strike a command at work, each at many points."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fault_commands import leftovers_in, strangers_in
from fault_process import SECONDS, Child, Ended, Fate, die, fail_with, interrupt, kept_from_growing, run
from fault_trials import SAID, Row, Trials, complaints, left_behind

import cptlite

__all__ = ["STRIKES"]

Strike = Callable[[Trials, Row, np.random.Generator, int], None]
NOBODY = 65534
PACKAGE = Path(cptlite.__file__).parent
PAGE = 4096


def drawn(draw: np.random.Generator, count: int, most: int) -> list[int]:
    """Some of the numbers from 1, in order."""
    return sorted(int(each) + 1 for each in draw.choice(count, min(count, most), replace=False))


def at_points(act: Callable[[str | None], None], allowed: tuple[int, ...], **options: bool) -> Strike:
    """Strike with an action at some of the points that the command passes."""

    def strike(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
        leaves = options.get("leaves", False)
        which = {name: value for name, value in options.items() if name != "leaves"}
        points = trials.points(Fate(**which))
        for at in drawn(draw, len(points), most):
            fate, name = Fate(at=at, act=act, **which), points[at - 1]
            # Who is stopped while it tidies up leaves the rest to the next one.
            trials.attempt(row, f"{at}, {name}", allowed, fate=fate, leaves=leaves or name == "os.remove")

    return strike


def in_writes(*, deadly: bool) -> Strike:
    """Stop a file from growing beyond a size, as a quota does, or let the kernel end the process that tries."""

    def strike(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
        with trials.laid_out() as folder:
            run(trials.command.words, folder)
            paths = [path for name in trials.command.outputs for path in (folder / name, *(folder / name).rglob("*"))]
            sizes = sorted({path.stat().st_size for path in paths if path.is_file()})
        tries = [0, *(int(size * share) for size in sizes for share in (*draw.random(most // len(sizes) + 1), 0.999))]
        for size in sorted({*map(int, draw.choice(tries, min(most, len(tries)), replace=False))}):
            allowed = (-signal.SIGXFSZ, 0) if deadly else (0, 1)
            trials.attempt(row, f"{size} bytes", allowed, prepare=kept_from_growing(size, deadly=deadly))

    return strike


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 32 MiB, if this process may make one."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def full_disk(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
    """Leave so many pages free on a real disk."""
    needs = 6 * 2**20 if trials.command.words[0] == "cache" else 2**19
    with small_disk(trials.folder / "disk") as disk:
        for pages in drawn(draw, needs // PAGE, most) if disk else ():
            with trials.laid_out(disk) as folder:
                before, there = strangers_in(folder), leftovers_in(folder)
                with (disk / "ballast").open("wb") as ballast:
                    free = shutil.disk_usage(disk).free
                    os.posix_fallocate(ballast.fileno(), 0, max(1, free - (pages - 1) * PAGE))
                ended = run(trials.command.words, folder)
                (disk / "ballast").unlink()
                if ended.code:
                    problems = [*complaints(ended, (1,)), *left_behind(folder, there), *trials.after(folder, before)]
                    row.note(f"{pages - 1} pages free", problems)


def is_open_to_others(path: Path) -> bool:
    """Whether every user may read a folder and pass to it."""
    return path.stat().st_mode & 0o005 == 0o005 and all(each.stat().st_mode & 0o001 for each in path.parents)


def read_only(mode: int, *, folders: bool) -> Strike:
    """Take permissions from one of the files or folders that there are when the command begins."""

    def become_nobody() -> None:
        if os.geteuid() == 0:  # whom nothing is forbidden
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

    def strike(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
        if not is_open_to_others(PACKAGE):  # whoever is nobody could not import it
            return
        with trials.laid_out() as folder:
            found = [path.relative_to(folder) for path in (folder, *sorted(folder.rglob("*")))]
            found = [path for path in found if (folder / path).is_dir() == folders and path.suffix != ".png"]
        for index in drawn(draw, len(found), most):
            with trials.laid_out() as folder:
                before, chosen = strangers_in(folder), folder / found[index - 1]
                for path in (folder, *folder.rglob("*")):
                    path.chmod(0o777 if path.is_dir() else 0o666)
                chosen.chmod(mode)
                ended = run(trials.command.words, folder, prepare=become_nobody)
                if chosen.exists():
                    chosen.chmod(0o777 if folders else 0o666)
                problems = [*complaints(ended, (0, *SAID)), *trials.after(folder, before)]
                row.note(str(found[index - 1]), problems)

    return strike


def two_writers(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
    """Let the same command run from beginning to end while another stands at a point."""
    points = trials.points(Fate())
    for at in drawn(draw, len(points), most):
        with trials.laid_out() as folder:
            before = strangers_in(folder)
            (arrived, arriving), (going, go) = os.pipe(), os.pipe()

            def stand(_: str | None, arriving: int = arriving, going: int = going) -> None:
                os.write(arriving, b"!")
                os.read(going, 1)

            first = Child(trials.command.words, folder, lambda: None, Fate(at=at, act=stand))
            os.read(arrived, 1)
            second = run(trials.command.words, folder)
            os.write(go, b"!")
            ended = first.wait()
            for end in (arrived, arriving, going, go):
                os.close(end)
            problems = [*complaints(ended, (0, 1)), *complaints(second, (0, 1))]
            problems += ["neither came to an end"] * (ended.code + second.code > 1)
            for each in (ended, second):
                if each.code == 1 and "another process" not in each.err:
                    problems.append(f"says nothing of another process: {each.err[-300:]}")
            problems += trials.after(folder, before)
            row.note(f"{at}, {points[at - 1]}", problems)


def removed_meanwhile(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
    """Remove a file while the command is at work; what it found is put back before it goes on."""
    points = trials.points(Fate())
    for at in drawn(draw, len(points), most):
        with trials.laid_out() as folder:
            choice, before, there = draw.random(), strangers_in(folder), leftovers_in(folder)

            def remove(_: str | None, folder: Path = folder, choice: float = choice) -> None:
                names = [folder / name for name in (*trials.command.outputs, *trials.command.finds)]
                paths = sorted(path for name in names for path in (name, *name.rglob("*")) if path.is_file())
                paths = [path for path in paths if path.name not in STRANGE]
                if paths:
                    paths[int(choice * len(paths))].unlink()
                    (folder.parent / "struck").touch()

            ended = run(trials.command.words, folder, fate=Fate(at=at, act=remove))
            if not (folder.parent / "struck").exists():
                continue
            (folder.parent / "struck").unlink()
            for name in trials.command.finds:
                shutil.copytree(trials.shelf.made / name, folder / name, dirs_exist_ok=True)
            problems = [*complaints(ended, (0, *SAID))]
            problems += [*left_behind(folder, there), *trials.goes_on(folder, may_refuse=True)]
            problems += ["files of others were touched"] * (strangers_in(folder) != before)
            row.note(f"{at}, {points[at - 1]}, {choice:.3f}", problems)


COMMAND_LINE = (sys.executable, "-m", "cptlite")


def typed(words: Sequence[str], folder: Path) -> Ended:
    """Carry a command out in a process of its own."""
    done = subprocess.run([*COMMAND_LINE, *words], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    return Ended(done.returncode, done.stdout, done.stderr)


def from_outside(number: signal.Signals, code: int) -> Strike:
    """Send a signal to a command in a process of its own, some time after it has said what it does."""

    def strike(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
        if trials.command.state != "new" or trials.command.words[0] not in ("cache", "train"):
            return
        with trials.laid_out() as folder:
            before, wait = strangers_in(folder), 0.3 * draw.random()
            pipe = subprocess.PIPE
            words = [*COMMAND_LINE, *trials.command.words]
            with subprocess.Popen(words, cwd=folder, stdout=pipe, stderr=pipe, text=True) as child:
                assert child.stderr is not None and child.stderr.readline()
                time.sleep(wait)
                child.send_signal(number)
                out, err = child.communicate(timeout=SECONDS)
            ended = Ended(child.returncode, out, err)
            problems = [*complaints(ended, (code, 0)), *trials.after(folder, before, typed)]
            row.note(f"after {wait:.2f} s", problems)

    return strike


STRANGE = ("notes.txt", "mine.txt", "other.h5")
STRIKES: dict[str, Strike] = {
    "killed at an operation on files": at_points(die, (-signal.SIGKILL,)),
    "killed anywhere": at_points(die, (-signal.SIGKILL,), calls=True),
    "killed within a write": in_writes(deadly=True),
    "Ctrl-C at an operation on files": at_points(interrupt, (130,)),
    "Ctrl-C anywhere": at_points(interrupt, (130,), calls=True),
    "killed from outside": from_outside(signal.SIGKILL, -signal.SIGKILL),
    "Ctrl-C from outside": from_outside(signal.SIGINT, 130),
    "no space at a write (ENOSPC)": at_points(fail_with(errno.ENOSPC), (0, 1), writes_only=True),
    "quota (EDQUOT)": at_points(fail_with(errno.EDQUOT), (0, 1), writes_only=True),
    "files kept from growing (EFBIG)": in_writes(deadly=False),
    "a full disk": full_disk,
    "a failing disk (EIO)": at_points(fail_with(errno.EIO), (0, *SAID), leaves=True),
    "a read-only folder": read_only(0o555, folders=True),
    "a read-only file": read_only(0o444, folders=False),
    "a file that may not be read": read_only(0, folders=False),
    "two writers": two_writers,
    "a file removed meanwhile": removed_meanwhile,
}
"""What is done to a command, its row of the table, a generator, and how many points at most."""
