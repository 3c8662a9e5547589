"""``cptlite datasets``: what the catalogue knows, and what of it lies under the root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.console import print_results, print_table
from cptlite.cli.options import ROOT, JsonOption, RootOption, complete_dataset
from cptlite.datasets.text_files import shown

if TYPE_CHECKING:
    from cptlite.datasets import DatasetStatus

__all__ = ["datasets"]


def datasets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show one dataset or suite: its expected files, and what is missing.", autocompletion=complete_dataset
        ),
    ] = None,
    root: RootOption = ROOT,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Of one: an error if something is left out, doubled or short."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the known datasets and suites, or show one."""
    from cptlite.datasets import dataset_status, load_catalog

    catalog = load_catalog()
    if name is not None:
        statuses = [dataset_status(spec, root) for spec in catalog.resolve([name])]
        if json:
            print_results([_facts(status) | _details(status) for status in statuses])
        else:
            print("\n\n".join(_page(status, root) for status in statuses))
        if strict:
            from cptlite.datasets.checks import refuse_warnings

            refuse_warnings({status.spec.name: status.warnings for status in statuses})
        return
    listed = [_facts(dataset_status(spec, root, count=False)) for spec in catalog.datasets.values()]
    if json:
        suites = {suite.name: list(suite.datasets) for suite in catalog.suites.values()}
        print_results(listed, suites=suites)
        return
    _print_list(listed, root)
    for suite in catalog.suites.values():
        print(f"suite {suite.name}: {' '.join(suite.datasets) or suite.note}")


def _facts(status: DatasetStatus) -> dict[str, Any]:
    """Gather what the catalogue says of a dataset and whether it was found."""
    spec = status.spec
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "task": spec.task_name,
        "classes": spec.num_classes,
        "counts": None if spec.counts is None else list(spec.counts),
        "metric": spec.metric,
        "template": spec.template,
        "note": spec.note,
        "found": status.found,
        "folder": str(status.folder) if status.found else None,
    }


def _details(status: DatasetStatus) -> dict[str, Any]:
    """Gather what was read of a dataset, and what is missing or wrong."""
    return {
        "missing": list(map(str, status.missing)),
        "split": status.split_source,
        "read_counts": None if status.counts is None else list(status.counts),
        "read_classes": status.num_classes,
        "read_tasks": status.num_tasks,
        "difference": status.difference,
        "problem": status.problem,
        "notes": list(status.notes),
        "warnings": list(status.warnings),
    }


def _print_list(listed: list[dict[str, Any]], root: Path) -> None:
    from cptlite.reporting import Table

    rows = tuple(
        (
            " ".join((facts["name"], *(f"({alias})" for alias in facts["aliases"]))),
            facts["task"],
            _number(facts["classes"]),
            _counts(facts["counts"]),
            "yes" if facts["found"] else "-",
        )
        for facts in listed
    )
    print_table(
        Table(
            title=f"Known datasets, and which were found in {root}",
            columns=("name (also)", "task", "classes", "train/val/test", "found"),
            rows=rows,
            best=frozenset((row, 4) for row, facts in enumerate(listed) if facts["found"]),
            caption="cptlite datasets NAME shows the files one needs and what is missing",
            words=(0, 1),
        )
    )


def _page(status: DatasetStatus, root: Path) -> str:
    """Write everything about one dataset."""
    from cptlite.datasets import expected_tree

    spec = status.spec
    also = f" (also {', '.join(spec.aliases)})" if spec.aliases else ""
    lines = [
        f"{spec.name}{also}",
        f"  task      {spec.task_name}, scored by {spec.metric}",
        f"  template  {spec.template}",
        f"  in full   {_number(spec.num_classes)} classes, train/val/test {_counts(spec.counts)}",
        "  files expected:",
        *(f"    {line}" for line in expected_tree(spec, str(root)).splitlines()),
    ]
    if spec.note:
        lines.append(f"  note      {spec.note}")
    return "\n".join(lines + _state(status))


def _state(status: DatasetStatus) -> list[str]:
    """Write what was found or what is missing."""
    if not status.found:
        return ["  missing:", *(f"    {shown(path)}" for path in status.missing)]
    lines = [f"  found     {shown(status.folder)}", f"  split     {status.split_source}"]
    if status.problem:
        return [*lines, f"  problem   {status.problem}"]
    tasks = f"{status.num_tasks} tasks, " if status.num_tasks != 1 else ""
    lines.append(f"  holds     {tasks}{status.num_classes} classes, train/val/test {_counts(status.counts)}")
    lines += [f"  differs   {status.difference}"] if status.difference else []
    lines += [f"  note      {line}" for line in status.notes]
    return lines + [f"  warning   {line}" for line in status.warnings]


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _counts(counts: Sequence[int] | None) -> str:
    return "as found" if counts is None else "/".join(map(str, counts))
