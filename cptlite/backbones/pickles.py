"""Pickles of PyTorch read as what they hold, numbers, texts and tensors, without running them.

`torch.load` keeps a file from calling what it likes, but not from asking for any amount of memory, or for no end: it
makes storages of whatever size a file claims. Here a pickle is read instruction by instruction; any instruction or name
that no checkpoint of weights needs is refused, nothing is imported or called, and tensors are views of storages that
the caller has found in the file.

Source: PyTorch's ``torch/serialization.py``, ``torch/_utils.py`` and ``torch/csrc/jit/serialization/pickler.cpp``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Module", "StorageFacts", "read_pickle"]

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
VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING")
REBUILT = {f"torch._utils _rebuild_{kind}" for kind in ("tensor_v2", "parameter", "parameter_with_state")}
LISTS = {f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
# What optimisers and settings beside the weights are made of; it becomes what it would have been made from.
BESIDE = {
    "torch Size",
    "torch device",
    "torch.serialization _get_layout",
    "__builtin__ set",
    "builtins set",
    "__builtin__ complex",
    "builtins complex",
    "_codecs encode",
    "collections Counter",
}
TREE = "collections OrderedDict"


class Module(dict[str, Any]):
    """A module of a TorchScript archive: its attributes."""


class StorageFacts(NamedTuple):
    """What a pickle says of a storage: its number type, its name in the file and how many numbers it has."""

    dtype: torch.dtype
    key: str
    numbers: int


class Stream(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """Read so many bytes, or all there are; room is made for no more."""

    def readline(self) -> bytes:
        """Read the rest of a line."""

    def tell(self) -> int:
        """Place of the next byte."""


class _Global(str):
    """A name that the pickle would have imported: module and name, a space between."""


def read_pickle(
    content: Stream,
    find_storage: Callable[[StorageFacts], Tensor],
    rebuild: Callable[..., Any] | None = None,
) -> Any:
    """Read one pickle.

    Parameters
    ----------
    content : Stream
        What follows the pickle is left there.
    find_storage : callable
        Gives the numbers of a storage, shape (numbers,), with gradients off.
    rebuild : callable, optional
        Called with storage, offset, size and stride of each tensor in place of making it.

    Returns
    -------
    object
        Dicts, lists, tuples, numbers, texts, tensors and, of a TorchScript archive, `Module`.

    Raises
    ------
    Exception
        The pickle is damaged, of any kind; ValueError where it holds what no checkpoint of weights needs.
    """
    return _Machine(find_storage, rebuild or _rebuild).run(content)


class _Machine:
    """Reads a pickle as PyTorch writes it; what else a pickle can say is refused."""

    def __init__(self, find_storage: Callable[[StorageFacts], Tensor], rebuild: Callable[..., Any]) -> None:
        self._find_storage, self._rebuild = find_storage, rebuild
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lay on the stack at each open MARK
        self._memo: dict[int, Any] = {}

    def run(self, content: Any) -> Any:
        """Value that the pickle describes."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("its pickle has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO":
                pass
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "TUPLE":
                self._close().append(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                _of_kind(stack[-1], list).append(value)
            case "APPENDS":
                _of_kind(self._close()[-1], list).extend(stack)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key], [value])
            case "SETITEMS":
                _set_items(self._close()[-1], stack[::2], stack[1::2])
            case "NEWOBJ" | "REDUCE" | "BUILD":
                value, target = stack.pop(), stack.pop()
                stack.append(self._made(opcode, target, value))
            case "BINPERSID":
                stack.append(self._find_storage(_storage_facts(*stack.pop())))
            case _ if opcode in CONSTANTS or opcode in VALUES:
                stack.append(CONSTANTS.get(opcode, argument))
            case _:
                raise ValueError(f"its pickle uses the instruction {opcode}, which no weights need")

    def _close(self) -> list[Any]:
        """Go back to the stack below the last MARK."""
        self._stack = self._below.pop()
        return self._stack

    def _made(self, opcode: str, target: Any, value: Any) -> Any:
        """Value of an instruction that would have made an object."""
        if opcode == "BUILD" and type(target) is Module:
            target.update(_of_kind(value, dict))
            return target
        if opcode == "BUILD" and type(target) is dict:  # the versions of modules, on an OrderedDict
            return target
        if type(target) is _Global and opcode == "NEWOBJ" and target.startswith("__torch__") and value == ():
            return Module()
        if type(target) is _Global and opcode == "REDUCE":
            if target == TREE and value == ():
                return {}
            if target == "torch._utils _rebuild_tensor_v2":
                return self._rebuild(*value[:4])
            if target in REBUILT or target in LISTS:
                return value[0]
            if target in BESIDE:
                return value
        raise ValueError(f"it makes an object its own way, of {type(target).__name__} and {type(value).__name__}")


def _known(name: str) -> _Global:
    """Take over a name if weights, or what is saved beside them, have it."""
    module, _, own = name.partition(" ")
    number_type = module == "torch" and (own in DTYPES or isinstance(getattr(torch, own, None), torch.dtype))
    if name in (TREE, *REBUILT, *LISTS, *BESIDE) or number_type or module.partition(".")[0] == "__torch__":
        return _Global(name)
    raise ValueError(
        f"it holds an object {f'{module}.{own}'!r}, and only tensors are read: save model.state_dict() alone"
    )


def _of_kind(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _set_items(target: Any, keys: list[Any], values: list[Any]) -> None:
    """Fill a dict; tuples as keys are refused, since Python dies of the digest of a deep one."""
    if not all(type(key) in (str, int) for key in keys):
        raise ValueError("its pickle has a dict whose keys are neither texts nor whole numbers")
    _of_kind(target, dict).update(zip(keys, values, strict=True))


def _storage_facts(kind: Any, storage: Any, key: Any, _: Any, count: Any, *views: Any) -> StorageFacts:
    module, _, name = storage.partition(" ") if type(storage) is _Global else ("", "", "")
    known = kind in ("storage", b"storage") and module == "torch" and name in DTYPES and views in ((), (None,))
    if not known or type(key) is not str or type(count) is not int:
        raise ValueError("it names a storage in an unknown way")
    return StorageFacts(DTYPES[name], key, count)


def _rebuild(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    try:
        tensor = torch.as_strided(storage, size, stride, offset)
    except RuntimeError:
        raise ValueError(f"a tensor lies outside of its storage of {storage.numel()} numbers") from None
    if tensor.numel() > storage.numel():
        raise ValueError(f"a tensor claims {tensor.numel()} numbers, its storage has {storage.numel()}")
    return tensor
