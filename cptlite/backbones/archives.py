"""TorchScript archives read as what they hold, a zip of numbers, without running them.

`torch.jit.load` runs the ``__setstate__`` of any module in the archive, which may write files. Here the archive's
``data.pkl`` is read instruction by instruction: modules become their attributes, tensors are views of the storages in
``data/NNN``, any other instruction or name is refused. Nothing is imported or called, and the archive's code not read.

Source: the layout is that of PyTorch's ``torch/csrc/jit/serialization`` (``export_module.cpp``, ``pickler.cpp``).
"""

from __future__ import annotations

import pickletools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_zip", "is_jit_archive", "is_zip", "read_jit_archive"]

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DEPTH = 16  # of modules in modules; CLIP's are 6 deep

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class _Module(dict[str, Any]):
    """A module of the archive: its attributes."""


class _Global(str):
    """A name that the archive would have imported: module and name, a space between."""


def is_zip(path: Path) -> bool:
    """Whether PyTorch would read a file as a zip."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def is_jit_archive(path: Path) -> bool:
    """Whether a zip is a TorchScript archive: PyTorch's own rule."""
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def check_zip(path: Path) -> None:
    """Refuse a zip that claims to hold more bytes than it has, or one entry twice.

    Raises
    ------
    ValueError
        With the reason.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > len(set(archive.namelist())):
            raise ValueError("an entry of the archive stands twice")
        data = [entry for entry in entries if "/data/" in entry.filename or entry.filename.endswith("/data.pkl")]
        packed = next((entry.filename for entry in data if entry.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"the archive's entry {packed!r} is compressed")
        # The code of an archive is compressed, and never unpacked.
        if sum(entry.file_size for entry in data) > path.stat().st_size:
            raise ValueError("the archive's entries claim more bytes than the file has")


def read_jit_archive(path: Path) -> dict[str, Tensor]:
    """Read the weights of a TorchScript archive, which `check_zip` has passed.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to Tensor
        As the ``state_dict`` of `torch.jit.load` for a traced module, to the bit.

    Raises
    ------
    ValueError
        The archive holds something else than modules and tensors; the message says what.
    """
    with zipfile.ZipFile(path) as archive:
        records = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(records) != 1:
            raise ValueError(f"the archive holds {len(records)} entries data.pkl, wanted one")
        if archive.getinfo(records[0]).file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"the archive's data.pkl has more than {MAX_PICKLE_BYTES // 2**20} MiB")
        storages = _Storages(archive, records[0].removesuffix("data.pkl"))
        root = _Machine(storages).run(archive.read(records[0]))
    return dict(_named_tensors(root, "", 0, set()))


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._read: dict[str, Tensor] = {}
        names = archive.namelist()
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"
        self._swapped = order != sys.byteorder

    def find(self, identity: Any) -> Tensor:
        """Numbers of a storage, shape (numbers,), by what the pickle says of it."""
        kind, storage, key, _, count = identity
        module, _, name = storage.partition(" ")
        if kind != "storage" or module != "torch" or name not in DTYPES or type(count) is not int:
            raise ValueError("the archive names a storage in an unknown way")
        dtype = DTYPES[name]
        if key not in self._read:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if entry.file_size != count * dtype.itemsize:
                raise ValueError(
                    f"the archive's storage {key!r} claims {count} numbers of {dtype}, its entry has "
                    f"{entry.file_size} bytes"
                )
            raw = bytearray(self._archive.read(entry))  # the entry's checksum is compared here
            numbers = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            if self._swapped:
                numbers.untyped_storage().byteswap(dtype)
            self._read[key] = numbers
        if self._read[key].dtype != dtype or len(self._read[key]) != count:
            raise ValueError(f"the archive's storage {key!r} stands there in two forms")
        return self._read[key]


class _Machine:
    """Reads a pickle as PyTorch writes it; what else a pickle can say is refused."""

    def __init__(self, storages: _Storages) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lay on the stack at each open MARK
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Value that the pickle describes."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("the archive's data.pkl has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO":
                pass
            case "GLOBAL":
                stack.append(_Global(argument))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "TUPLE":
                self._close().append(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPENDS":
                self._close()[-1].extend(stack)
            case "SETITEMS":
                self._close()[-1].update(zip(stack[::2], stack[1::2], strict=True))
            case "NEWOBJ" | "REDUCE" | "BUILD":
                value, target = stack.pop(), stack.pop()
                stack.append(_made(opcode, target, value))
            case "BINPERSID":
                stack.append(self._storages.find(stack.pop()))
            case _ if opcode in CONSTANTS or opcode in VALUES:
                stack.append(CONSTANTS.get(opcode, argument))
            case _:
                raise ValueError(f"the archive's data.pkl uses the instruction {opcode}, which no CLIP needs")

    def _close(self) -> list[Any]:
        """Go back to the stack below the last MARK."""
        self._stack = self._below.pop()
        return self._stack


def _made(opcode: str, target: Any, value: Any) -> Any:
    """Value of an instruction that would have made an object."""
    if opcode == "BUILD" and type(target) is _Module and type(value) is dict:
        target.update(value)
        return target
    if type(target) is _Global:
        module, _, name = target.partition(" ")
        if opcode == "NEWOBJ" and module.partition(".")[0] == "__torch__" and value == ():
            return _Module()
        if opcode == "REDUCE" and target == "torch._utils _rebuild_tensor_v2":
            return _rebuild(*value)
        if opcode == "REDUCE" and target == "torch._utils _rebuild_parameter":
            return value[0]
        if opcode == "REDUCE" and target == "collections OrderedDict" and value == ():
            return {}
        if opcode == "REDUCE" and module == "torch.jit._pickle" and name in LISTS and type(value[0]) is list:
            return value[0]
        raise ValueError(f"the archive calls {f'{module}.{name}'!r}, which no CLIP needs")
    raise ValueError(f"a module of the archive sets its own state, from a {type(value).__name__}")


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    try:
        tensor = torch.as_strided(storage, size, stride, offset)
    except RuntimeError:
        raise ValueError(f"a tensor of the archive lies outside of its storage of {storage.numel()} numbers") from None
    if tensor.numel() > storage.numel():
        raise ValueError(f"a tensor of the archive claims {tensor.numel()} numbers, its storage has {storage.numel()}")
    return tensor


def _named_tensors(module: Any, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if type(module) is not _Module:
        raise ValueError("the archive's data.pkl holds no module")
    if depth > MAX_DEPTH or id(module) in seen:
        raise ValueError(f"the archive's module {prefix!r} is too deep or stands there twice")
    seen.add(id(module))
    for name, value in module.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
    for name, value in module.items():
        if type(value) is _Module:
            yield from _named_tensors(value, f"{prefix}{name}.", depth + 1, seen)
