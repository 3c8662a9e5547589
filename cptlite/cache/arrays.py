"""Named arrays out of files that other programs wrote: npy, npz, safetensors and torch; nothing in them is run.

Objects in numpy's files, which are pickles, are refused; torch's are read by `cptlite.backbones.archives`. What a file
claims to hold is compared with its size before room is made for it.

Sources: NumPy's ``numpy/lib/format.py`` for the head of an array.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, bfloat16

from cptlite.backbones.archives import read_torch
from cptlite.datasets.text_files import check_regular, shown
from cptlite.errors import DataError
from cptlite.files import BoundedReader

__all__ = ["ARRAY_SUFFIXES", "read_arrays"]

ARRAY_SUFFIXES = (".npz", ".npy", ".safetensors", ".pt", ".pth")
HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
KINDS = "fiubUS"  # numbers and texts
PACKED = 50  # times that an entry of npz may be larger than its bytes; features hardly get smaller
SMALL = 64 * 2**20  # bytes that are unpacked without a look at how small they were
MAX_REASON = 300


def read_arrays(path: Path) -> Mapping[str, Any]:
    """Read a file of arrays.

    Parameters
    ----------
    path : Path
        With one of `ARRAY_SUFFIXES`.

    Returns
    -------
    mapping of str to ndarray, list or other plain values
        By name; of a file that holds one array alone under "". Arrays of npy are mapped, not read. Of safetensors the
        texts of its metadata are among them.

    Raises
    ------
    DataError
        There is no such file, or it is damaged or holds something else.
    """
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        ".npz": _read_npz,
        ".npy": _read_npy,
        ".safetensors": _read_safetensors,
    }
    try:
        check_regular(path)
        return readers.get(path.suffix.lower(), _read_torch)(path)
    except FileNotFoundError:
        raise DataError(f"wanted features in {shown(path)}, found no file: give the path of one") from None
    except DataError:
        raise
    except Exception as error:  # the readers raise anything at all on a foreign file
        reason = shown(error)[:MAX_REASON] or type(error).__name__
        raise DataError(
            f"wanted arrays in {shown(path)}, cannot read it as {path.suffix} ({reason}): write or fetch it again"
        ) from None


def _read_head(file: Any) -> tuple[tuple[int, ...], str, np.dtype]:
    """Shape, order and number type that the head of an array says, if these are numbers or texts."""
    version = np.lib.format.read_magic(file)
    if version not in HEADS:
        raise ValueError(f"its head is of version {version[0]}.{version[1]}")
    shape, by_columns, dtype = HEADS[version](file)
    if dtype.hasobject:
        raise ValueError(
            "it holds Python objects, which are pickles and are not read: save numbers, or texts with "
            "np.array(names, dtype=str)"
        )
    if dtype.kind not in KINDS:
        raise ValueError(f"it holds {dtype}, wanted numbers or texts")
    return shape, "F" if by_columns else "C", dtype


def _read_npy(path: Path) -> Mapping[str, Any]:
    with BoundedReader(path) as file:
        shape, order, dtype = _read_head(file)
        start, size = file.tell(), path.stat().st_size
    if math.prod(shape) * dtype.itemsize > size - start:
        raise ValueError(f"its head says {shape} of {dtype}, which is more than its {size} bytes; it is cut short")
    if not math.prod(shape):
        return {"": np.empty(shape, dtype)}
    return {"": np.memmap(path, dtype, mode="r", offset=start, shape=shape, order=order)}  # type: ignore[call-overload]


def _read_npz(path: Path) -> Mapping[str, Any]:
    with BoundedReader(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > len(set(archive.namelist())):
            raise ValueError("an entry stands twice")
        return {entry.filename.removesuffix(".npy"): _unpack(archive, entry) for entry in entries}


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.file_size > max(SMALL, PACKED * entry.compress_size):
        raise ValueError(f"{entry.filename!r} claims {entry.file_size} bytes, packed in {entry.compress_size}")
    with archive.open(entry) as file:
        shape, order, dtype = _read_head(file)
        content = file.read()  # whose checksum is compared at its end
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename!r} says {shape} of {dtype} and has {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: _as_array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return {**metadata, **tensors}


def _read_torch(path: Path) -> Mapping[str, Any]:
    with BoundedReader(path) as file:
        content = read_torch(file)
    if isinstance(content, Tensor):
        return {"": _as_array(content)}
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, wanted a tensor, or a dict with one")
    named = {str(name): value for name, value in content.items()}
    return {name: _as_array(value) if isinstance(value, Tensor) else value for name, value in named.items()}


def _as_array(tensor: Tensor) -> np.ndarray:
    """Numbers of a tensor; numpy has no bfloat16."""
    return (tensor.float() if tensor.dtype == bfloat16 else tensor).numpy()
