"""``cptlite methods``: what ``--method`` and ``--variant`` may be."""

from __future__ import annotations

from cptlite.cli.console import print_json, print_table
from cptlite.cli.options import JsonOption

__all__ = ["methods"]


AXES = (
    "numbers learned, of the first variant: T tasks, K classes of all tasks, N training images, L context tokens of a "
    "class prompt, M of a task prompt, P prompts of a class, W text width, D joint dimension, H hidden units"
)


def methods(json: JsonOption = False) -> None:
    """List the methods: what each learns and from what, whether tasks share it, how much it is, and its paper."""
    from cptlite.methods.table import METHODS
    from cptlite.reporting import Table

    if json:
        facts = ("variants", "learns", "multi_task", "cached", "parameters", "source")
        print_json(
            [{"name": name, **{fact: getattr(entry, fact) for fact in facts}} for name, entry in METHODS.items()]
        )
        return
    rows = tuple(
        (
            name,
            entry.learns,
            "shared" if entry.multi_task else "per task",
            entry.cached,
            entry.parameters,
            entry.source,
        )
        for name, entry in METHODS.items()
    )
    columns = ("--method", "learns", "tasks", "from the cache", "numbers learned", "source")
    variants = (
        f"{name} --variant: {', '.join(entry.variants)}; the first is the default"
        for name, entry in METHODS.items()
        if entry.variants
    )
    caption = "\n".join((*variants, AXES))
    print_table(Table(title="Methods", columns=columns, rows=rows, caption=caption, words=tuple(range(len(columns)))))
