"""Reading text and JSON files with messages a user can act on."""

from __future__ import annotations

import codecs
import io
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from cptlite.errors import DataError

__all__ = [
    "check_regular",
    "check_utf8",
    "name_key",
    "read_json",
    "read_lines",
    "read_text",
    "shown",
    "shown_lines",
    "special_kind",
]

ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""By byte order mark: spreadsheets save "Unicode text" as UTF-16."""

SPECIAL_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def name_key(name: str) -> str:
    """Write a name of a class or task so that spellings of one are equal: capitals, underscores, spaces aside."""
    return " ".join(name.replace("_", " ").casefold().split())


def shown(text: object) -> str:
    r"""Write a text from a file, or a path, so that it cannot steer a terminal or forge a line: ``\x1b`` for ESC."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def shown_lines(text: str) -> str:
    """Write a message of several lines, each as `shown` does: a library's words, or a path, may be in it."""
    return "\n".join(map(shown, text.split("\n")))


def special_kind(path: Path) -> str:
    """Say what a path is if not a file with content, "a FIFO" perhaps, without opening it; "" for a file.

    Raises
    ------
    OSError
        When there is nothing, or it may not be looked at.
    """
    mode = os.stat(path).st_mode
    return "" if stat.S_ISREG(mode) else SPECIAL_KINDS.get(stat.S_IFMT(mode), "something else")


def check_regular(path: Path) -> None:
    """Refuse what would hang or never end when read, as FIFOs and devices do.

    Raises
    ------
    DataError
        When the path is no file.
    OSError
        When there is nothing at the path.
    """
    kind = special_kind(path)
    if kind:
        raise DataError(f"{shown(path)}: wanted a file, got {kind}; put a file there")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark; the mark is left out.

    Raises
    ------
    DataError
        When it is no file, or its encoding is another one.
    """
    check_regular(path)
    content = path.read_bytes()
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(path)}: wanted UTF-8 text, got other bytes at position {error.start}; save the file as UTF-8"
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
            f"{shown(source)}: wanted names in UTF-8, got {name!a}; rename it, or unpack the archive "
            "with its own encoding (unzip -O, convmv)"
        )


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number from 1, stripped text) of the lines that are not blank."""
    lines = enumerate(io.StringIO(read_text(path), newline=None), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    DataError
        When it is not JSON, holds NaN or infinity, is nested too deep or has numbers of thousands of digits.
    """
    try:
        return json.loads(read_text(path), parse_constant=_refuse_constant)
    except RecursionError:
        raise DataError(f"{shown(path)}: wanted a JSON file, got one that is nested too deep; fetch it again") from None
    except ValueError as error:  # JSONDecodeError, and what `int` says of too many digits
        raise DataError(
            f"{shown(path)}: wanted a JSON file, cannot read it as one ({shown(error)}); fetch it again"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
