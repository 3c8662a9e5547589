"""Archives unpacked as files in one folder, whatever they say.

No member leaves the folder; links, devices and pipes are left out; what claims or unpacks to far more than the
archive has, as bombs do, is refused. Permissions, owners and times of the archive are not taken over.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.files import naming_full_disk

__all__ = ["unpack"]

CHUNK = 2**20  # bytes
RATIO, ALWAYS = 20, 64 * 2**20  # unpacked bytes a byte of the archive, and so many anyway; images do not shrink
MAX_MEMBERS = 2_000_000  # ImageNet has 1.3 million
MAX_HEADER = 2**20  # bytes of a long name or of other extended headers
MAX_DEPTH = 32  # folders in folders
EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
GZIP, ZIP = b"\x1f\x8b", b"PK"


class _RefusedError(ValueError):
    """The archive is not one to unpack."""


class _TarInfo(tarfile.TarInfo):
    """A header that is not believed to be long: tarfile reads the whole of what it claims."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENDED and header.size > MAX_HEADER:
            raise _RefusedError(f"a header claims {header.size} bytes")
        return header


class _Bounded:
    """Content of an archive as it is unpacked, so much of it and no more."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self._left = file, most

    def read(self, size: int) -> bytes:
        content: bytes = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise _RefusedError("it unpacks to far more bytes than it has")
        return content


def unpack(archive: Path, folder: Path, on_progress: Callable[[int, int | None], None] | None = None) -> int:
    """Unpack an archive: zip, tar, or tar packed with gzip, told by its first bytes.

    Parameters
    ----------
    archive : Path
    folder : Path
        Where its files go; made. Nothing that others could have laid a link into.
    on_progress : callable, optional
        Called with files that are unpacked, and how many there are, if the archive says so.

    Returns
    -------
    int
        Members left out, because they are links, devices or pipes.

    Raises
    ------
    DataError
        The archive is damaged, or made to harm.
    CptliteError
        The disk is full.
    """
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _write_members(archive, folder, on_progress or (lambda done, total: None))
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the archive
                raise
            raise _damaged(archive, error) from None
        except Exception as error:  # readers of archives raise anything for bytes that make no sense
            raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> DataError:
    words = shown(error) or type(error).__name__
    return DataError(f"{shown(archive)}: wanted an archive, cannot unpack it ({words}); delete it and fetch it again")


def _write_members(archive: Path, folder: Path, on_progress: Callable[[int, int | None], None]) -> int:
    most = ALWAYS + RATIO * archive.stat().st_size
    with archive.open("rb") as file:
        head = file.read(2)
    left_out = done = 0
    for total, name, content in (_zip_members if head == ZIP else _tar_members)(archive, most, head):
        if content is None:
            left_out += 1
            continue
        target = folder / _inside(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as written:
            while block := content.read(CHUNK):
                written.write(block)
        done += 1
        on_progress(done, total)
    return left_out


Member = tuple[int | None, str, Any]
"""How many files there are, if known; the name of one; its content, or None for what is none."""


def _tar_members(archive: Path, most: int, head: bytes) -> Iterator[Member]:
    with gzip.open(archive) if head == GZIP else archive.open("rb") as file:
        stream: Any = _Bounded(file, most)
        members: Any = tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo)
        with members:
            for number, member in enumerate(members):
                _check_count(number)
                members.members = []  # it remembers them all, and what it forgot is not asked for
                if member.isdir():
                    _inside(member.name)
                    continue
                plain = member.isreg() and not member.issparse()  # holes unpack to any size
                yield None, member.name, members.extractfile(member) if plain else None
        while stream.read(CHUNK):  # to the end, where gzip's checksum is
            pass


def _zip_members(archive: Path, most: int, head: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as members:
        entries = [entry for entry in members.infolist() if not entry.is_dir()]
        _check_count(len(entries))
        if sum(entry.file_size for entry in entries) > most:
            raise _RefusedError("it unpacks to far more bytes than it has")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _RefusedError(f"{entry.filename!r} is packed in a way that is not read here")
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                yield len(entries), entry.filename, None
                continue
            with members.open(entry) as content:
                yield len(entries), entry.filename, content


def _check_count(number: int) -> None:
    if number > MAX_MEMBERS:
        raise _RefusedError(f"it has more than {MAX_MEMBERS} members")


def _inside(name: str) -> PurePosixPath:
    """Check a member's path, which is to stay in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts[:1]:
        raise _RefusedError(f"its member {name!r} would leave the folder")
    if len(path.parts) > MAX_DEPTH:
        raise _RefusedError(f"its member {name[:80]!r} lies more than {MAX_DEPTH} folders deep")
    return path
