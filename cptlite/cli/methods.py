"""``cptlite methods``: what ``--method`` and ``--variant`` may be."""

from __future__ import annotations

from cptlite.cli.console import print_json, print_table
from cptlite.cli.options import JsonOption

__all__ = ["methods"]


def methods(json: JsonOption = False) -> None:
    """List the methods, their variants, what each needs cached and what it learns."""
    from cptlite.methods.table import METHODS
    from cptlite.reporting import Table

    if json:
        listed = (
            {
                "name": name,
                "variants": list(entry.variants),
                "learns": entry.learns,
                "multi_task": entry.multi_task,
                "needs_cached": entry.needs_cached,
            }
            for name, entry in METHODS.items()
        )
        print_json(list(listed))
        return
    rows = tuple(
        (name, " ".join(entry.variants), "yes" if entry.multi_task else "", entry.needs_cached, entry.learns)
        for name, entry in METHODS.items()
    )
    columns = ("--method", "--variant", "shared by tasks", "needs cached", "learns")
    caption = "the first variant is the default; cptlite cache --local stores local features"
    print_table(Table(title="Methods", columns=columns, rows=rows, caption=caption, words=(0, 1, 2, 3, 4)))
