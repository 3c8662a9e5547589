"""``cptlite methods``: what ``--method`` and ``--variant`` may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cptlite.cli.console import print_results, print_table
from cptlite.cli.options import JsonOption

if TYPE_CHECKING:
    from cptlite.methods.entry import MethodEntry

__all__ = ["methods"]

NEW = {"everything": "new classes and tasks", "task": "new classes", "class": "nothing new"}

AXES = (
    "numbers learned, of the first variant: T tasks, K classes of all tasks, N training images, L context tokens of a "
    "class prompt, M of a task prompt, P prompts of a class, Q channels kept, W text width, D joint dimension, I input "
    "of the image tower's projection, H hidden units, G those of TCP's net"
)


def methods(json: JsonOption = False) -> None:
    """List the methods: what each learns and from what, whether tasks share it, how much it is, and its paper.

    What is learned carries over to new classes (train --classes base) where their weights come from their names, and to
    new tasks (train --held-out-task NAME) where all tasks share it.
    """
    from cptlite.methods.table import METHODS
    from cptlite.reporting import Table

    if json:
        facts = ("variants", "learns", "multi_task", "cached", "sees", "cost", "parameters", "source", "deviation")
        print_results(
            [
                {
                    "name": name,
                    **{fact: getattr(entry, fact) for fact in facts},
                    "carries_over_to": _carries_over(entry),
                }
                for name, entry in METHODS.items()
            ]
        )
        return
    rows = tuple(
        (
            name,
            entry.learns,
            "shared" if entry.multi_task else "per task",
            "; ".join(f"{new}: {', '.join(of)}" if of else new for new, of in _carries_over(entry).items()),
            entry.cached,
            entry.parameters,
            entry.source,
        )
        for name, entry in METHODS.items()
    )
    columns = ("--method", "learns", "tasks", "carries over to", "from the cache", "numbers learned", "source")
    variants = (
        f"{name} --variant: {', '.join(entry.variants)}; the first is the default"
        for name, entry in METHODS.items()
        if entry.variants
    )
    caption = "\n".join((*variants, AXES))
    print_table(Table(title="Methods", columns=columns, rows=rows, caption=caption, words=tuple(range(len(columns)))))


def _carries_over(entry: MethodEntry) -> dict[str, list[str]]:
    """To what that was not learned from, with the variants that do, where there are any."""
    found: dict[str, list[str]] = {}
    for variant in entry.variants or ("",):
        found.setdefault(NEW[entry.scope_of(variant)], []).extend([variant] if variant else [])
    return found
