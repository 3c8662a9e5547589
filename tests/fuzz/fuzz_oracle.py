"""What every reader of files is held to, whatever bytes it is given.

It returns, or raises an error of cptlite's own whose message is one printable line. It ends soon, takes memory after
the size of the file and not after what the file claims, opens and changes nothing else, and runs nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import cptlite

CPU_SECONDS = 10.0  # of the processor, so that a busy machine fails nothing
MIB = 2**20
MAX_MESSAGE = 2000  # characters; the path of the file is among them
READ_ONLY = (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND)
# What Python reads by itself: modules that are imported late.
OWN_PLACES = tuple(
    os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, Path(cptlite.__file__).parent, "/dev/null")
)
REACHING_OUT = (
    "os.exec os.fork os.forkpty os.link os.mkdir os.posix_spawn os.putenv os.remove os.rename os.rmdir os.spawn "
    "os.symlink os.system os.truncate os.utime pickle.find_class shutil.copyfile shutil.move shutil.rmtree "
    "socket.bind socket.connect subprocess.Popen webbrowser.open"
).split()


class Finding(AssertionError):
    """What a reader did that it may not."""


class _Stopped(BaseException):
    """Nothing that a reader catches."""


class _Watch:
    """Listens to Python's audit events while a reader runs; a hook cannot be removed, so there is one."""

    folder: str | None = None  # of the reader's files; None while nothing is watched

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in REACHING_OUT:
            self.stop(f"{event} {arguments!r:.200}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[2] or 0
            inside = path.startswith((f"{self.folder}/", *OWN_PLACES))
            if not inside or any(flags & flag for flag in READ_ONLY):
                self.stop(f"opens {path} with flags {flags}")

    def stop(self, what: str) -> None:
        self.folder = None
        raise _Stopped(f"reaches out: {what}")


_watch = _Watch()
sys.addaudithook(_watch)


def check(read: Callable[[Path], Any], folder: Path, allowed: tuple[type[Exception], ...], mebibytes: int) -> None:
    """Run a reader on a folder that holds its files.

    Raises
    ------
    Finding
        The reader broke a rule; the message begins with which, a colon behind.
    """
    before = _listing(folder)
    peak = _peak()
    try:
        with _limited_memory(mebibytes), _limited_time(), _watching(folder):
            read(folder)
    except allowed as error:
        _check_message(error)
        _check_causes(error)
    except _Stopped as error:
        raise Finding(str(error)) from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Finding(f"traceback: {type(error).__name__} in {Path(where.filename).name}:{where.name}") from error
    if _listing(folder) != before:
        raise Finding(f"changes files: {sorted(before)} became {sorted(_listing(folder))}")
    if _peak() > peak + mebibytes * MIB:
        raise Finding(f"memory: {(_peak() - peak) / MIB:.0f} MiB")


def _check_message(error: Exception) -> None:
    message = str(error)
    if not message.isprintable():
        raise Finding(f"message: not one printable line: {message!r:.300}") from error
    if not message.strip() or len(message) > MAX_MESSAGE:
        raise Finding(f"message: {len(message)} characters: {message!r:.300}") from error


def _check_causes(error: BaseException | None) -> None:
    """Find an allocation that failed behind a message that says something else."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise Finding(f"memory: {error!r:.200}") from error
        error = error.__cause__ or error.__context__


def _listing(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _watching(folder: Path) -> Iterator[None]:
    _watch.folder = os.path.realpath(folder)
    try:
        yield
    finally:
        _watch.folder = None


@contextmanager
def _limited_memory(mebibytes: int) -> Iterator[None]:
    """Let the process have so much more than it has, so that an allocation after a claimed size fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _limited_time() -> Iterator[None]:
    """End what takes the processor too long: between two instructions of Python, so not within a library."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(f"hang: over {CPU_SECONDS:.0f} seconds")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
