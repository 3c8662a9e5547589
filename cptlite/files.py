"""Files that are either whole or not there, what is no file at all, and folders with one writer at a time."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cptlite.errors import CptliteError

__all__ = ["BoundedReader", "file_kind", "locked", "naming_full_disk", "replacing", "write_whole"]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
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
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise CptliteError(
            f"no space left in {folder}: free some and run the same command again, which goes on with what is written"
        ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which says who holds it and is gone afterwards.

    Parameters
    ----------
    path : Path
        In a folder that exists.

    Raises
    ------
    CptliteError
        Another process holds it: it is not waited for. Or the file system has no locks.
    """
    lock = FileLock(path, timeout=0)
    try:
        with warnings.catch_warnings(), naming_full_disk(path.parent):
            warnings.simplefilter("ignore")  # of a makeshift lock, which is refused below
            lock.acquire()
    except Timeout:
        raise CptliteError(
            f"another process{_holder(path)} writes to {path.parent}: wait until it is done, or end it"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        path.unlink(missing_ok=True)  # made before it was to be locked
        raise _without_locks(path, str(error)) from None
    try:
        if type(lock) is not FileLock:
            raise _without_locks(path, "only makeshift ones")
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


def _without_locks(path: Path, reason: str) -> CptliteError:
    return CptliteError(
        f"wanted to lock {path.parent}, got a file system without locks ({reason}): give --no-lock if no other process "
        f"writes there, or a folder on another file system"
    )
