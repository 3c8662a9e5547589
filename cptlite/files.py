"""Files that are either whole or not there, what is no file at all, and folders with one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cptlite.errors import CptliteError, DataError, UsageError

__all__ = [
    "BoundedReader",
    "file_kind",
    "is_whole",
    "locked",
    "naming_full_disk",
    "read_file",
    "replacing",
    "replacing_alone",
    "sha256_of",
    "table_digest",
    "write_alone",
    "write_whole",
]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
PROCESSES = Path("/proc")
SHOWN = 80  # characters of a lock file, which anything may stand in


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; flushed and renamed to ``path`` if all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class BoundedReader(io.BufferedReader):
    """A file that makes room for no more bytes than it has left: Python's own does for as many as it is asked for.

    A reader that asks for what a file claims would take any amount of memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or all that are left."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


def read_file(path: Path) -> bytes:
    """Read a file whole; what would hang or never end when read is not opened.

    Raises
    ------
    DataError
        There is a pipe, a folder or a device.
    OSError
        There is nothing, or it may not be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise DataError(f"wanted a file at {path}, got {file_kind(mode)}: move it away")
    return path.read_bytes()


def file_kind(mode: int) -> str:
    """Words for what a path leads to, by its ``st_mode``: "a folder", "a pipe", ..."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file that is gone on from: all of it or nothing, with the permissions that new files have.

    Raises
    ------
    CptliteError
        The disk is full.
    """
    with naming_full_disk(path.parent), replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing_alone(path: Path) -> Iterator[Path]:
    """Yield a temporary name as `replacing` does, for a file that nobody goes on from; leftovers of it go.

    Its folder is made. It takes no lock, and so removes only what processes left that this machine knows are gone.

    Raises
    ------
    UsageError
        There is something at the path that is no file.
    CptliteError
        The disk is full.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"wanted a file to write at {path}, got {file_kind(path.stat().st_mode)}: give another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        process = leftover.name.split(".")[-2]
        if process.isdecimal() and PROCESSES.is_dir() and not (PROCESSES / process).exists():
            leftover.unlink(missing_ok=True)
    with naming_full_disk(path.parent), replacing(path) as temporary:
        yield temporary


def write_alone(path: Path, content: bytes) -> None:
    """Write a file that nobody goes on from; see `replacing_alone`."""
    with replacing_alone(path) as temporary:
        temporary.write_bytes(content)


def sha256_of(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def table_digest(table: Mapping[str, Any]) -> str:
    """Hex digest over all of a JSON table but its entry ``sha256``, in whatever order and layout."""
    rest = {name: value for name, value in table.items() if name != "sha256"}
    return sha256_of(json.dumps(rest, sort_keys=True).encode())


def is_whole(results: Mapping[str, Any]) -> bool:
    """Whether the results of a run carry their own digest; those of earlier versions had none, nor ``files``."""
    return not results.keys() & {"sha256", "files"} or results.get("sha256") == table_digest(results)


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE and "No space left" not in str(error):  # HDF5 has words alone
            raise
        raise CptliteError(
            f"no space left in {folder}: free some and run the same command again, which goes on with what is written"
        ) from None


@contextmanager
def locked(path: Path, target: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which says who holds it and is gone afterwards.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    target : Path
        What it is the lock of, for messages.
    wait : float
        Seconds to wait for another process that holds it.

    Raises
    ------
    CptliteError
        Another process holds it, or the file system has no locks.
    """
    lock = FileLock(path, timeout=wait)
    try:
        with warnings.catch_warnings(), naming_full_disk(path.parent):
            warnings.simplefilter("ignore")  # of a makeshift lock, which is refused below
            lock.acquire()
    except Timeout:
        raise CptliteError(
            f"another process{_holder(path)} is writing {target}: wait until it is done, or end it"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        path.unlink(missing_ok=True)  # made before it was to be locked
        raise _without_locks(target, str(error)) from None
    try:
        if type(lock) is not FileLock:
            raise _without_locks(target, "only makeshift ones")
        with suppress(OSError):  # a lock holds without a name on it, on a full disk too
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        # Removed while it is held: whoever comes later makes another, and whoever opened this one sees that it is gone.
        path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Who wrote its name into a lock file, in brackets; nothing where that cannot be read."""
    try:
        text = path.read_bytes()[:SHOWN].decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({text})" if text.isprintable() and text else ""


def _without_locks(target: Path, reason: str) -> CptliteError:
    return CptliteError(
        f"wanted to lock {target}, got a file system without locks ({reason}): give --no-lock if no other process "
        f"writes there, or a folder on another file system"
    )
