"""``cptlite datasets``: what the catalogue knows, and what of it lies under the root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.console import print_json, print_table
from cptlite.cli.options import ROOT, JsonOption, RootOption

if TYPE_CHECKING:
    from cptlite.datasets.specs import DatasetSpec
    from cptlite.datasets.types import Dataset

__all__ = ["datasets"]


def datasets(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one dataset or suite: its expected files, and what is missing."),
    ] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """List the known datasets and suites, or show one."""
    from cptlite.datasets.catalog import load_catalog

    catalog = load_catalog()
    if name is not None:
        described = [_describe(spec, root) for spec in catalog.resolve([name])]
        print_json(described) if json else print("\n\n".join(map(_page, described)))
        return
    listed = [_facts(spec, root) for spec in catalog.datasets.values()]
    suites = {suite.name: list(suite.datasets) for suite in catalog.suites.values()}
    if json:
        print_json({"datasets": listed, "suites": suites})
        return
    _print_list(listed, root)
    for suite in catalog.suites.values():
        print(f"suite {suite.name}: {' '.join(suite.datasets) or suite.note}")


def _facts(spec: DatasetSpec, root: Path) -> dict[str, Any]:
    """Gather what the catalogue says of a dataset and whether it lies under the root."""
    from cptlite.datasets.locate import find_dataset

    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "task": spec.task_name,
        "classes": spec.num_classes,
        "counts": None if spec.counts is None else list(spec.counts),
        "metric": spec.metric,
        "template": spec.template,
        "found": find_dataset(spec, root),
    }


def _describe(spec: DatasetSpec, root: Path) -> dict[str, Any]:
    """Add the expected files to the facts, and what was read or what is missing."""
    from cptlite.datasets.locate import (
        expected_tree,
        find_place,
        missing,
        read_dataset,
        split_source,
    )

    facts = _facts(spec, root) | {"tree": expected_tree(spec, str(root)), "note": spec.note}
    place = find_place(spec, root)
    if place is None:
        return facts | {"missing": [str(path) for path in missing(spec, root)]}
    return facts | {"split": split_source(place), "read": _read_counts(read_dataset(spec, root))}


def _read_counts(dataset: Dataset) -> dict[str, Any]:
    return {
        "image_root": str(dataset.image_root),
        "tasks": {task.id: len(task.class_names) for task in dataset.tasks},
        "rows": {split: len(rows) for split, rows in dataset.splits.items()},
    }


def _print_list(listed: list[dict[str, Any]], root: Path) -> None:
    from cptlite.reporting import Table

    rows = tuple(
        (
            facts["name"],
            " ".join(facts["aliases"]),
            facts["task"],
            _number(facts["classes"]),
            _counts(facts["counts"]),
            "yes" if facts["found"] else "-",
        )
        for facts in listed
    )
    print_table(
        Table(
            title="Known datasets",
            columns=("name", "also", "task", "classes", "train/val/test", f"in {root}"),
            rows=rows,
            best=frozenset((row, 5) for row, facts in enumerate(listed) if facts["found"]),
            caption="cptlite datasets NAME shows the files one needs and what is missing",
            words=(0, 1, 2),
        )
    )


def _page(facts: dict[str, Any]) -> str:
    """Write everything about one dataset."""
    also = f" (also {', '.join(facts['aliases'])})" if facts["aliases"] else ""
    lines = [
        f"{facts['name']}{also}",
        f"  task      {facts['task']}, scored by {facts['metric']}",
        f"  template  {facts['template']}",
        f"  classes   {_number(facts['classes'])}, train/val/test {_counts(facts['counts'])}",
        "  files expected:",
        *(f"    {line}" for line in facts["tree"].splitlines()),
    ]
    if facts["note"]:
        lines.append(f"  note      {facts['note']}")
    if facts["found"]:
        read = facts["read"]
        rows = "/".join(str(read["rows"].get(split, 0)) for split in ("train", "val", "test"))
        tasks = f"{len(read['tasks'])} tasks, " if len(read["tasks"]) > 1 else ""
        lines.append(f"  found     {tasks}{sum(read['tasks'].values())} classes, {rows}")
        lines.append(f"  split     {facts['split']}")
    else:
        lines.append("  missing")
        lines += (f"    {path}" for path in facts["missing"])
    return "\n".join(lines)


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _counts(counts: list[int] | None) -> str:
    return "as found" if counts is None else "/".join(map(str, counts))
