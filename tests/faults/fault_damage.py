"""Kinds of damage that a file may have taken before a command reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from fault_commands import Command, outcome_of, strangers_in
from fault_process import run
from fault_trials import SAID, Row, Trials, complaints, without_force

__all__ = ["DAMAGES"]

Damage = Callable[[bytes, np.random.Generator], bytes | None]
VERIFY = ("verify",)
REPORT = ("report", "--json", "runs")


def flip(content: bytes, draw: np.random.Generator) -> bytes:
    """Turn one bit over."""
    changed, bit = bytearray(content), int(draw.integers(8 * len(content)))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def zero(content: bytes, draw: np.random.Generator) -> bytes:
    """Put zeros in place of some bytes, as a disk does that lost a block."""
    start, size = int(draw.integers(len(content))), int(2 ** draw.integers(1, 13))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def cut(content: bytes, draw: np.random.Generator) -> bytes:
    """Cut the end off."""
    return content[: int(draw.integers(len(content)))]


def replace(content: bytes, draw: np.random.Generator) -> bytes:
    """Put other bytes in place of some, as a disk does that mixes blocks up."""
    start, size = int(draw.integers(len(content))), int(2 ** draw.integers(1, 13))
    return content[:start] + draw.bytes(len(content[start : start + size])) + content[start + size :]


def remove(content: bytes, draw: np.random.Generator) -> None:
    """Leave no file."""


def damaging(damage: Damage) -> Callable[[Trials, Row, np.random.Generator, int], None]:
    """Damage what a command left, whole or halfway, and see what it and those that read it make of that."""

    def strike(trials: Trials, row: Row, draw: np.random.Generator, most: int) -> None:
        command = trials.command
        if command.state not in ("half", "done") or command.words[0] not in ("cache", "train"):
            return
        with trials.laid_out() as folder:
            paths = [path for name in command.outputs for path in sorted((folder / name).rglob("*")) if path.is_file()]
            names = [path.relative_to(folder) for path in paths if path.stat().st_size]
            names = [name for name in names if name.as_posix() not in strangers_in(folder)]
            wanted = run(REPORT, folder).out if command.words[0] == "train" else ""
        for number in range(most if names else 0):
            name = names[number % len(names)]
            with trials.laid_out() as folder:
                before, content = strangers_in(folder), (folder / name).read_bytes()
                damaged = damage(content, draw)
                if damaged == content:
                    continue
                if damaged is None:
                    (folder / name).unlink()
                else:
                    (folder / name).write_bytes(damaged)
                problems = [*_read_by_others(trials, folder, wanted)] if command.state == "done" else []
                problems += _goes_on(trials, folder, force=number % 4 == 0)
                problems += ["files of others were touched"] * (strangers_in(folder) != before)
                row.note(f"{number}, {name}", problems)

    return strike


def _read_by_others(trials: Trials, folder: Path, wanted: str) -> Iterator[str]:
    """What reads the files that a command left: it says that they are damaged, or reads what was written."""
    if trials.command.words[0] == "cache":
        ended = run(VERIFY, folder)
        yield from complaints(ended, (0, *SAID))
        if ended.code == 0 and "leaves.h5" in ended.out and not _is_whole(folder, trials):
            yield "verify sees nothing"
    else:
        ended = run(REPORT, folder)
        yield from complaints(ended, (0, *SAID))
        if ended.code == 0 and json.loads(ended.out) != json.loads(wanted):
            yield "report says something else"


def _is_whole(folder: Path, trials: Trials) -> bool:
    try:
        return outcome_of(folder, trials.command) == trials.wanted
    except Exception:
        return False


def _goes_on(trials: Trials, folder: Path, *, force: bool) -> Iterator[str]:
    """What the command makes of it: what was to be, or a message; and what it makes with --force, or a second time."""
    command: Command = trials.command
    ended = run(without_force(command), folder)
    yield from complaints(ended, (0, *SAID))
    if command.words[0] == "cache" and command.state == "half":  # a damaged part goes, and is encoded again
        if ended.code:
            yield from complaints(run(command.words, folder), (0,))
        yield from trials.differences(folder)
        return
    if ended.code == 0 and command.words[0] == "train":
        yield from trials.differences(folder)
    if force:
        yield from complaints(run((*without_force(command), "--force"), folder), (0,))
        yield from (f"with --force {each}" for each in trials.differences(folder))


DAMAGES = {
    "a flipped bit": damaging(flip),
    "zeros in place of bytes": damaging(zero),
    "other bytes in place of some": damaging(replace),
    "a file cut off": damaging(cut),
    "a file that is gone": damaging(remove),
}
