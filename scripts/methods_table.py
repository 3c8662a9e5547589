"""Print README's table of methods, made from the method table and from each method's options.

    python scripts/methods_table.py

README keeps it under the mark ``<!-- methods -->``; a test compares them.
"""

from __future__ import annotations

from cptlite.methods.table import METHODS

__all__ = ["markdown"]

COLUMNS = ("`--method`", "learns", "tasks", "from the cache", "its own options", "source")


def markdown() -> str:
    """Lines of the table, one a method."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, entry in METHODS.items():
        tasks = "shared" if entry.multi_task else "one at a time" if entry.separate or not entry.stepped else "jointly"
        flags = " ".join(f"`--{each.flag}`" for each in entry.list_options())
        lines.append(f"| `{name}` | {entry.learns} | {tasks} | {entry.cached} | {flags} | {entry.source} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
