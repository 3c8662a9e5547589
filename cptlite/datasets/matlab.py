"""Reading whole numbers from MATLAB 5 files, with every length checked: scipy's reader crashes on some broken ones.

Source: The MathWorks, "MAT-File Format" (level 5): a header of 128 bytes, then elements of a type, a length and bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cptlite.datasets.text_files import check_regular, shown
from cptlite.errors import DataError

__all__ = ["read_whole_numbers"]

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
LARGEST = 2**26  # bytes a variable may take: a list of a million images is far below


def read_whole_numbers(path: Path, name: str) -> list[int]:
    """Return the numbers of one variable, in the file's order.

    Parameters
    ----------
    path : Path
        A MATLAB file of version 5 to 7, as ``save`` and scipy write it.
    name : str
        The variable.

    Returns
    -------
    list of int

    Raises
    ------
    DataError
        When it is another file, damaged, or lacks the variable, or that holds other things than whole numbers.
    OSError
        When the file cannot be read.
    """
    check_regular(path)
    content = path.read_bytes()
    try:
        order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
        if order is None or content.startswith(b"MATLAB 7.3"):
            raise ValueError("it does not begin as files of version 5 to 7 do")
        values = next((found for key, found in _variables(content[HEADER:], order) if key == name), None)
        if values is None:
            raise ValueError("there is none")
        if not np.isfinite(values).all() or (values != np.floor(values)).any() or (np.abs(values) > 2**31).any():
            raise ValueError("it holds others")
        return [int(value) for value in values]
    except (ValueError, zlib.error) as error:
        raise DataError(
            f"{shown(path)}: wanted a MATLAB file with whole numbers {name!r}, cannot read them ({shown(error)}); "
            "fetch it again"
        ) from None


def _variables(content: bytes, order: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and values of every variable that holds numbers."""
    for kind, payload in _elements(content, order):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(payload, LARGEST)
            if not unpacker.eof:
                raise ValueError("a variable is cut off or too large")
            kind, payload = next(_elements(unpacked, order), (0, b""))
        if kind != MATRIX:
            continue
        parts = list(_elements(payload, order))  # flags, dimensions, name, numbers
        if len(parts) > 3 and parts[3][0] in NUMBERS:
            yield parts[2][1].decode("latin-1"), np.frombuffer(parts[3][1], order + NUMBERS[parts[3][0]])


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes of each element; short ones hold both lengths in their first four bytes."""
    start = 0
    while start + 8 <= len(content):
        first, size = (int(word) for word in np.frombuffer(content, f"{order}u4", count=2, offset=start))
        short = first >> 16
        kind, size, begin = (first & 0xFFFF, short, start + 4) if short else (first, size, start + 8)
        if begin + size > len(content) or short > 4:
            raise ValueError("an element is longer than the file")
        yield kind, content[begin : begin + size]
        start = start + 8 if short else begin + size + (0 if kind == COMPRESSED else -size % 8)
