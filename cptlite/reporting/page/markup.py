"""Words as HTML: all that comes from files is escaped here, and stands in text or in quoted attributes alone."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cptlite.datasets.text_files import shown

__all__ = ["Cell", "attributes", "escape", "folded", "script_json", "sort_value", "table_markup"]

UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
AMOUNT = re.compile(r"(\d[\d,]*(?:\.\d+)?)(?: (ms|s|min|h)\b)?")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text : str
        As it was read; escaped when it is drawn.
    link : str
        What it leads to: an element of the page by ``#id``, or a file beside it; or nothing.
    mark : str
        Markup that stands before the text.
    kind : str
        Classes for the style sheet.
    """

    text: str
    link: str = ""
    mark: str = ""
    kind: str = ""

    def inside(self) -> str:
        """Markup of what the cell holds."""
        inner = self.mark + escape(self.text)
        return f'<a href="{escape(self.link)}">{inner}</a>' if self.link and inner else f"<span>{inner}</span>"


def escape(text: object) -> str:
    """Write a text so that it is nothing but text, in an attribute too; control characters as ``shown`` does."""
    return html.escape(shown(text), quote=True)


def attributes(**values: str) -> str:
    """Attributes of an element, ``aria_sort`` for ``aria-sort``; those without a value are left out."""
    names = {name: name.rstrip("_").replace("_", "-") for name in values}
    return "".join(f' {names[name]}="{escape(value)}"' for name, value in values.items() if value)


def script_json(value: Any) -> str:
    r"""Write JSON that can stand in a ``<script>``: ``<``, ``>``, ``&`` and all letters beyond ASCII as ``\uXXXX``."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def sort_value(words: str) -> str:
    """Write what a figure sorts by: ``63.2`` of "63.2 ± 1.4", ``200`` of "3 min 20 s"; nothing of no figure."""
    found = AMOUNT.match(words)
    if not found:
        return ""
    if not found[2]:
        return found[1].replace(",", "")
    return f"{sum(float(number.replace(',', '')) * UNITS[unit] for number, unit in AMOUNT.findall(words)):g}"


def table_markup(
    columns: Sequence[str],
    bodies: Iterable[tuple[str, Iterable[Sequence[Cell]]]],
    *,
    words: Iterable[int] = (0,),
    sorts: bool = False,
) -> str:
    """Draw a table in a box that scrolls where it is wider than the page.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    bodies : iterable of (str, rows)
        Identifier, or nothing, and rows of a ``<tbody>``.
    words : iterable of int
        Columns that start at the left.
    sorts : bool
        Whether a heading sorts the rows when it is pressed.
    """
    left = set(words)
    heads = []
    for place, column in enumerate(columns):
        name = f'<button type="button">{escape(column)}</button>' if sorts else escape(column)
        said = attributes(scope="col", class_="" if place in left else "figure", aria_sort="none" * sorts)
        heads.append(f"<th{said}>{name}</th>")
    body = "\n".join(
        f"<tbody{attributes(id=name)}>\n" + "\n".join(_row(row, left) for row in rows) + "\n</tbody>"
        for name, rows in bodies
    )
    return (
        f'<div class="scroll" tabindex="0"><table{attributes(class_="sorts" * sorts)}>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n{body}\n</table></div>"
    )


def _row(row: Sequence[Cell], left: set[int]) -> str:
    cells = []
    for place, cell in enumerate(row):
        tag, scope = ("th", "row") if place == 0 else ("td", "")
        kind = " ".join(filter(None, ("" if place in left else "figure", cell.kind)))
        value = "" if place in left else sort_value(cell.text)
        said = attributes(scope=scope, class_=kind, data_value=value)
        cells.append(f"<{tag}{said}>{cell.inside()}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def folded(summary: str, inner: str, *, name: str = "", opened: bool = False, kind: str = "") -> str:
    """Draw what is shown when its summary is pressed; both are markup."""
    said = attributes(id=name, class_=kind)
    return f"<details{said}{' open' * opened}><summary>{summary}</summary>\n{inner}\n</details>"
