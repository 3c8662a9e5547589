"""A command of cptlite in a forked child, so that torch is imported once for thousands of them.

Before the command runs, the child is given its fate: points are counted, and at one of them it dies, is interrupted,
meets an error, waits, or loses a file. Points are operations on files below its folder, as Python's audit events tell
them, flushes, writes of HDF5, and, where asked for, calls of the package's functions.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import typer.main
from matplotlib.figure import Figure

import cptlite
import cptlite.backbones
import cptlite.cli
import cptlite.demo
import cptlite.drawings.suite
import cptlite.reporting.plots
import cptlite.runs.execute
import cptlite.runs.sweep
import cptlite.timing  # noqa: F401  imported here for all children
import cptlite.training.state
from cptlite.cache.encode import encode_dataset
from cptlite.cli import main
from cptlite.demo import DemoPlan
from cptlite.training.recipe import RECIPES

__all__ = [
    "HANGS",
    "SECONDS",
    "Child",
    "Ended",
    "Fate",
    "die",
    "fail_with",
    "interrupt",
    "kept_from_growing",
    "run",
    "warm_up",
]

PACKAGE = str(Path(cptlite.__file__).parent)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.copyfile")
LOOKS = ("os.listdir", "os.scandir", "fcntl.flock")
SECONDS = 60  # a child that takes longer hangs
HANGS = -1000  # its exit code


def warm_up() -> None:
    """Load what children share, and make their work small: parts of 4 rows, a checkpoint an epoch, a short demo."""
    load = cptlite.backbones.load_backbone
    loaded = {name: load(name, device="cpu") for name in ("random:demo", "demo")}
    for each in loaded.values():
        assert each.tokenizer
    cptlite.backbones.load_backbone = lambda name, **_: loaded[name]  # type: ignore[assignment]
    cptlite.runs.sweep.load_backbone = cptlite.backbones.load_backbone
    cptlite.training.state.CHECKPOINT_SECONDS = -1.0
    encode_dataset.__kwdefaults__["part_rows"] = 4  # type: ignore[index]
    DemoPlan.__init__.__kwdefaults__.update(
        methods=("coop-mt", "prototype"), shots=(1,), seeds=(1,), jobs=1, paper_too=()
    )
    cptlite.drawings.suite.ROWS_PER_CLASS.update(train=2, val=1, test=1)
    for recipe in RECIPES.values():
        recipe.pop("epochs_per_shot", None)
        recipe["epochs"] = 1
    with TemporaryDirectory() as nothing, redirect_stderr(io.StringIO()):  # what commands import when they run
        for words in (["train"], ["report"], ["cache", "-d", nothing]):
            sys.argv = ["cptlite", *words, *(["--cache-dir", nothing] if words != ["report"] else [nothing])]
            main()
    cptlite.cli.app = typer.main.get_command(cptlite.cli.app)  # type: ignore[assignment]
    figure = Figure()
    figure.add_subplot().set_title("finds the fonts", fontweight="bold")
    figure.savefig(io.BytesIO())
    gc.collect()
    gc.freeze()


def die(_: str | None) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt(_: str | None) -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def fail_with(code: int) -> Callable[[str | None], None]:
    """Make an action that is an error of the system."""

    def act(path: str | None) -> None:
        raise OSError(code, os.strerror(code), path)

    return act


@dataclass(kw_only=True)
class Fate:
    """Counts points, and acts at one of them.

    Attributes
    ----------
    at : int
        The point, from 1; 0 for none.
    act : callable
        Given the path of the point, where there is one.
    calls : bool
        Whether calls of the package's functions are points, not operations on files.
    writes_only : bool
        Whether only what needs space on the disk is a point.
    """

    at: int = 0
    act: Callable[[str | None], None] = lambda path: None
    calls: bool = False
    writes_only: bool = False
    names: list[str] = field(default_factory=list)
    root: str = ""
    done: bool = False  # or just acting: looking at files is no point itself

    def install(self, root: Path) -> None:
        """Count from now on, in this process."""
        self.root = str(root)
        if self.calls:
            threading.setprofile(self._profile)
            sys.setprofile(self._profile)
            return
        sys.addaudithook(self._audit)
        for module, name in ((os, "fsync"), (os, "posix_fallocate"), (h5py.Dataset, "__setitem__")):
            self._watch(module, name)

    def meet(self, name: str, path: str | None = None, *, writes: bool = False) -> None:
        """Pass a point."""
        if self.done or (self.writes_only and not writes):
            return
        self.names.append(name)
        if len(self.names) == self.at:
            self.done = True
            self.act(path)

    def _watch(self, place: Any, name: str) -> None:
        original = getattr(place, name)

        @functools.wraps(original)
        def watched(*arguments: Any) -> Any:
            self.meet(f"before {name}", writes=True)
            result = original(*arguments)
            self.meet(f"after {name}")
            return result

        setattr(place, name, watched)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & WRITING)
        elif event in CHANGES or event in LOOKS:
            path, writes = arguments[0], event in ("os.rename", "os.mkdir", "shutil.copyfile")
        else:
            return
        if isinstance(path, bytes | os.PathLike):
            path = os.fsdecode(path)
        if isinstance(path, int) and event == "open":
            return
        if isinstance(path, str) and path.startswith("/") and not path.startswith(self.root):
            return
        self.meet(event, path if isinstance(path, str) else None, writes=writes)

    def _profile(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.meet(frame.f_code.co_qualname)


def kept_from_growing(size: int, *, deadly: bool) -> Callable[[], None]:
    """Let no file grow beyond a size: the write that does is refused, or the last thing the process does."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return prepare


@dataclass(frozen=True)
class Ended:
    """How a command ended: the exit code, negative for a signal, what it said, and the points it passed."""

    code: int
    out: str
    err: str
    points: tuple[str, ...] = ()


class Child:
    """A command at work."""

    def __init__(self, words: Sequence[str], folder: Path, prepare: Callable[[], None], fate: Fate | None) -> None:
        pipes = [os.pipe() for _ in range(3)]  # stdout, stderr, points
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _live(words, folder, prepare, fate, [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        self.streams = {read: bytearray() for read, _ in pipes}

    def wait(self) -> Ended:
        """Read what it says until it ends."""
        deadline, open_streams = time.monotonic() + SECONDS, list(self.streams)
        while open_streams and time.monotonic() < deadline:
            for stream in select.select(open_streams, [], [], 1)[0]:
                content = os.read(stream, 2**16)
                self.streams[stream] += content
                if not content:
                    open_streams.remove(stream)
        if open_streams:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        for stream in self.streams:
            os.close(stream)
        out, err, points = (bytes(content).decode("utf-8", "replace") for content in self.streams.values())
        code = HANGS if open_streams else os.waitstatus_to_exitcode(status)
        return Ended(code, out, err, tuple(json.loads(points or "[]")))


def run(
    words: Sequence[str], folder: Path, *, prepare: Callable[[], None] = lambda: None, fate: Fate | None = None
) -> Ended:
    """Carry a command out in a folder."""
    return Child(words, folder, prepare, fate).wait()


def _live(words: Sequence[str], folder: Path, prepare: Callable[[], None], fate: Fate | None, pipes: list[int]) -> None:
    """In the child: the command, as the console script calls it."""
    code, fate = 1, fate or Fate(writes_only=True)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(pipes[0], 1)
        os.dup2(pipes[1], 2)
        os.chdir(folder)
        sys.argv = ["cptlite", *words]
        prepare()
        fate.install(folder)
        code = main()
    except BaseException:
        traceback.print_exc()
    sys.setprofile(None)
    fate.done = True
    sys.stdout.flush()
    sys.stderr.flush()
    if not fate.at:
        os.write(pipes[2], json.dumps(fate.names).encode())
    os._exit(code)
