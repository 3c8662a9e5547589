"""Write the tables of methods, made from the method table and from each method's options.

    python scripts/methods_table.py

README has a row a family below the mark ``<!-- methods -->``, docs/methods.md a row a method; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cptlite.methods.entry import MethodEntry
from cptlite.methods.table import METHODS

__all__ = ["MARK", "PAGES", "families", "markdown", "replaced"]

MARK = "<!-- methods -->\n"
ROOT = Path(__file__).parents[1]
LEARNED = ("`--method`", "what is learned", "numbers learned", "by tasks", "carries over to", "source")
SEEN = (
    "`--method`",
    "from the cache",
    "names",
    "validation",
    "texts of classes",
    "cost of a step",
    "otherwise than its source",
)
NEW = {"everything": "new tasks", "task": "new classes", "class": ""}


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lines of a table."""
    head = list(columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def families() -> str:
    """README's table: a row for the methods of one paper."""
    papers: dict[tuple[bool, str], list[str]] = {}
    for name, entry in METHODS.items():
        papers.setdefault((entry.stepped, entry.source), []).append(name)  # some authors have two in one year
    rows = []
    for names in papers.values():
        learns = dict.fromkeys(METHODS[name].learns for name in names)
        rows.append((", ".join(f"`{name}`" for name in names), "; ".join(learns), METHODS[names[0]].source))
    return markdown(("`--method`", "learns", "source"), rows)


def learned() -> str:
    """Say what each method learns, and for what."""
    return markdown(
        LEARNED,
        (
            (f"`{name}`", entry.learns, f"`{entry.parameters}`", _tasks(entry), _carries(entry), entry.source)
            for name, entry in METHODS.items()
        ),
    )


def seen() -> str:
    """Say what each method looks at, what its steps cost, and where it leaves its source."""
    return markdown(
        SEEN,
        (
            (
                f"`{name}`",
                entry.cached,
                "yes" if "names" in entry.sees else "",
                "chooses" if "validation" in entry.sees else "",
                ", ".join(word for word in entry.sees if word not in ("names", "validation")),
                entry.cost,
                entry.deviation,
            )
            for name, entry in METHODS.items()
        ),
    )


def options() -> str:
    """List each method's own options."""
    rows = (
        (f"`{name}`", " ".join(f"`--{each.flag}`" for each in entry.list_options())) for name, entry in METHODS.items()
    )
    return markdown(("`--method`", "its own options"), rows)


def _tasks(entry: MethodEntry) -> str:
    if entry.multi_task:
        return "shared"
    return "each alone" if entry.separate or not entry.stepped else "jointly, each its own"


def _carries(entry: MethodEntry) -> str:
    found = dict.fromkeys(NEW[entry.scope_of(variant)] for variant in entry.variants or ("",))
    return ", ".join(filter(None, found)) + " (by variant)" * (len(found) > 1)


PAGES = {"README.md": (families,), "docs/methods.md": (learned, seen, options)}
"""Functions that make the tables behind a page's marks, in order."""


def replaced(page: str) -> str:
    """Text of a page with its tables made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    tables = iter(PAGES[page])
    made = re.sub(rf"(?<={MARK})(?:\|.*\n)*", lambda _: f"{next(tables)()}\n", text)
    assert next(tables, None) is None, f"{page} lacks marks"
    return made


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(replaced(page), encoding="utf-8")
