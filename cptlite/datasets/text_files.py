"""Reading text and JSON files with messages a user can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cptlite.errors import DataError

__all__ = ["check_utf8", "read_json", "read_lines", "read_text"]


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, a byte order mark left out.

    Raises
    ------
    DataError
        When the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: wanted UTF-8 text, got other bytes at position {error.start}; save the file as UTF-8"
        ) from None


def check_utf8(name: str, source: Path) -> None:
    """Refuse a name of other bytes, as archives packed with an old code page leave them.

    Raises
    ------
    DataError
        When the name could not be written into a file of UTF-8 text.
    """
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(
            f"{source}: wanted names in UTF-8, got {name!a}; rename it, or unpack the archive "
            "with its own encoding (unzip -O, convmv)"
        )


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, stripped text) of the lines that are not blank."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    DataError
        When it is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: wanted a JSON file, cannot read it as one ({error}); fetch it again") from None
