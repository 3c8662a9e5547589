"""Changes to a cache file written as text, so that fuzzing reaches past HDF5's own checksums.

A line is a change: what, where, how and with what, a space between them. A line that cannot be followed is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

__all__ = ["EDITS", "WORDS", "apply_edits"]

EDITS = (
    b"attr :views i 2",
    b"attr :dataset s other\nattr :dtype v float16\nattr :flip b 1\nattr :min_scale f nan",
    b"attr tasks/drawn%2Ffirst:template s {} {}\nattr tasks/drawn%2Ffirst:index i 7",
    b"put train/features f2 3,1,8/3,1,8/f\nput train/labels i4 3/2/fg",
    b"put bad/path S3 2/2/f\ndata train/paths 1 \xff\xfe\ndata train/labels 0 \x07\0\0\0",
    b"drop val\nlink val soft train\nlink extra outside /secret.h5\nlink test hard train",
    b"data val/features 0 \0\x7e\nattr train:note s words\nattr :bad_images u 3",
)
WORDS = tuple(
    b":views :dataset :dtype :flip :min_scale :local :schema_version :bad_images :preprocess :layer train val test "
    b"tasks bad features labels paths classnames index metric template tasks/drawn%2Ffirst split reason local i4 i8 f2 "
    b"f4 f8 S1 S9 O /f /fg /fs attr put drop link data soft hard outside nan inf 1e999 4294967296 -1".split()
)
VALUES: dict[str, Callable[[bytes], object]] = {
    "s": lambda value: np.array(value or b"\0", h5py.string_dtype("utf-8", max(1, len(value)))),
    "a": lambda value: np.array(value or b"\0", h5py.string_dtype("ascii", max(1, len(value)))),
    "v": lambda value: value.decode("latin-1"),
    "i": lambda value: np.int64(int(value)),
    "u": lambda value: np.uint64(int(value)),
    "b": lambda value: np.bool_(value != b"0"),
    "f": lambda value: np.float64(float(value)),
    "A": lambda value: np.frombuffer(value, "u1"),
    "e": lambda value: h5py.Empty("f4"),
    "c": lambda value: np.complex64(complex(value.decode())),
}
MAX_LINES = 20
MAX_NUMBERS = 2**16


def apply_edits(path: Path, content: bytes) -> None:
    """Change a cache file."""
    with h5py.File(path, "r+") as file:
        for line in content.split(b"\n")[:MAX_LINES]:
            what, where, how, value = [*line.split(b" ", 3), *[b""] * 4][:4]
            edit = CHANGES.get(what)
            if edit is not None:
                with suppress(Exception):  # h5py raises a dozen kinds
                    edit(file, where.decode(), how.decode("latin-1"), value)


def _attribute(file: h5py.File, where: str, how: str, value: bytes) -> None:
    place, _, name = where.rpartition(":")
    file[place or "/"].attrs[name] = VALUES[how](value)


def _put(file: h5py.File, where: str, how: str, value: bytes) -> None:
    shape, chunks, filters = (value.decode() + "//").split("/")[:3]
    size, steps = (tuple(map(int, part.split(","))) if part else None for part in (shape, chunks))
    if where in file:
        del file[where]
    kind = h5py.string_dtype("utf-8") if how == "O" else np.dtype(how)
    if how.startswith("S"):
        kind = h5py.string_dtype("utf-8", int(how[1:]))
    made = file.create_dataset(
        where,
        size,
        kind,
        chunks=steps,
        fletcher32="f" in filters,
        compression="gzip" if "g" in filters else None,
        shuffle="s" in filters,
    )
    if how != "O" and made.size and made.size < MAX_NUMBERS:
        made[...] = np.zeros(size, kind)


def _drop(file: h5py.File, where: str, how: str, value: bytes) -> None:
    del file[where]


def _link(file: h5py.File, where: str, how: str, value: bytes) -> None:
    if where in file:
        del file[where]
    target = value.decode()
    made = {"soft": h5py.SoftLink, "outside": lambda name: h5py.ExternalLink(name, "/numbers")}.get(how, file.get)
    file[where] = made(target)


def _data(file: h5py.File, where: str, how: str, value: bytes) -> None:
    """Overwrite one number or text, by its place among all."""
    dataset = file[where]
    numbers = dataset[:].copy()
    raw = value[: numbers.dtype.itemsize].ljust(numbers.dtype.itemsize, b"\0")
    numbers.reshape(-1)[int(how)] = np.frombuffer(raw, numbers.dtype)[0]
    dataset[:] = numbers


CHANGES = {b"attr": _attribute, b"put": _put, b"drop": _drop, b"link": _link, b"data": _data}
