"""Files of PyTorch read as what they hold, without `torch.load` or `torch.jit.load`.

A TorchScript archive and what `torch.save` writes are one thing, a zip with a pickle ``data.pkl`` and storages in
``data/NNN``; before version 1.6 `torch.save` wrote pickles one behind the other, then the storages. `torch.jit.load`
runs the ``__setstate__`` of any module in an archive, which may write files; here nothing of a file is run, see
`cptlite.backbones.pickles`, and the archive's code is not read.

Source: the layout is that of PyTorch's ``torch/serialization.py`` and ``torch/csrc/jit/serialization``.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import torch
from torch import Tensor

from cptlite.backbones.pickles import Module, StorageFacts, read_pickle

__all__ = ["read_torch"]

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DEPTH = 16  # of modules in modules; CLIP's are 6 deep
ZIP = b"PK\x03\x04"
CODE = "code"  # folder of an archive that may be packed, since it is not read
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of files older than the zips


def read_torch(content: IO[bytes]) -> Any:
    """Read what PyTorch wrote.

    Parameters
    ----------
    content : file
        Open for reading, and makes room for no more than it has, as `cptlite.files.BoundedReader` and `io.BytesIO`.

    Returns
    -------
    object
        Of a TorchScript archive its weights by name, as the ``state_dict`` of `torch.jit.load` for a traced module, to
        the bit. Otherwise what was saved, with tensors, numbers and texts in dicts, lists and tuples.

    Raises
    ------
    Exception
        The file is damaged, of any kind; ValueError where it holds something else than such things.
    """
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    head = content.read(len(ZIP))
    content.seek(0)
    if head != ZIP:
        return _read_old(content, size)
    with zipfile.ZipFile(content) as archive:
        _check_zip(archive, size)
        return _read_archive(archive)


def _check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a zip that claims to hold more bytes than it has, or one entry twice."""
    entries = archive.infolist()
    if len(entries) > len(set(archive.namelist())):
        raise ValueError("an entry of the archive stands twice")
    data = [entry for entry in entries if entry.filename.split("/")[1:2] != [CODE]]
    for entry in data:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"the archive's entry {entry.filename!r} is compressed")
    if sum(entry.file_size for entry in data) > size:
        raise ValueError("the archive's entries claim more bytes than the file has")


def _read_archive(archive: zipfile.ZipFile) -> Any:
    records = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(records) != 1:
        raise ValueError(f"the archive holds {len(records)} entries data.pkl, wanted one")
    if archive.getinfo(records[0]).file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"the archive's data.pkl has more than {MAX_PICKLE_BYTES // 2**20} MiB")
    storages = _Storages(archive, records[0].removesuffix("data.pkl"))
    root = read_pickle(io.BytesIO(archive.read(records[0])), storages.find)
    return dict(_named_tensors(root, "", 0, set())) if type(root) is Module else root


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._read: dict[str, Tensor] = {}
        names = archive.namelist()
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"
        if order not in ("little", "big"):
            raise ValueError(f"the archive's byte order is {order!r:.40}")
        self._swapped = order != sys.byteorder

    def find(self, facts: StorageFacts) -> Tensor:
        """Numbers of a storage, shape (numbers,), by what the pickle says of it."""
        dtype, key, count = facts
        if key not in self._read:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if entry.file_size != count * dtype.itemsize:
                raise ValueError(
                    f"the archive's storage {key!r} claims {count} numbers of {dtype}, its entry has "
                    f"{entry.file_size} bytes"
                )
            numbers = _numbers(self._archive.read(entry), dtype)  # the entry's checksum is compared here
            if self._swapped:
                numbers.untyped_storage().byteswap(dtype)
            self._read[key] = numbers
        if self._read[key].dtype != dtype or len(self._read[key]) != count:
            raise ValueError(f"the archive's storage {key!r} stands there in two forms")
        return self._read[key]


def _numbers(content: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _named_tensors(module: Module, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if depth > MAX_DEPTH or id(module) in seen:
        raise ValueError(f"the archive's module {prefix!r} is too deep or stands there twice")
    seen.add(id(module))
    for name, value in module.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
    for name, value in module.items():
        if type(value) is Module:
            yield from _named_tensors(value, f"{prefix}{name}.", depth + 1, seen)


def _read_old(content: IO[bytes], size: int) -> Any:
    """Read a file of before version 1.6: its pickle twice, since the storages stand behind it."""
    heads = [read_pickle(content, _no_storage) for _ in range(3)]
    if heads[:2] != [MAGIC, VERSION] or heads[2]["little_endian"] is not (sys.byteorder == "little"):
        raise ValueError("it is no file of PyTorch's")
    start = content.tell()
    facts: dict[str, StorageFacts] = {}

    def note(found: StorageFacts) -> Tensor:
        if facts.setdefault(found.key, found) != found:
            raise ValueError(f"the storage {found.key!r} stands there in two forms")
        return torch.empty(0)

    read_pickle(content, note, rebuild=lambda *_: None)
    keys = read_pickle(content, _no_storage)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(facts):
        raise ValueError("its list of storages is damaged")
    storages = {key: _old_storage(content, facts[key], size) for key in keys}
    content.seek(start)
    return read_pickle(content, lambda found: storages[found.key])


def _old_storage(file: IO[bytes], facts: StorageFacts, size: int) -> Tensor:
    """Read the storage that a file stands at: how many numbers, then these."""
    count = int.from_bytes(file.read(8), sys.byteorder)
    if count != facts.numbers or count * facts.dtype.itemsize > size - file.tell():
        raise ValueError(f"the storage {facts.key!r} claims {facts.numbers} numbers, which the file does not have")
    return _numbers(file.read(count * facts.dtype.itemsize), facts.dtype)


def _no_storage(facts: StorageFacts) -> Tensor:
    raise ValueError(f"a storage {facts.key!r} stands where none belongs")
