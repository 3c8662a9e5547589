"""``cptlite report``: the tables and the plot of runs that are done."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.console import note, print_results, print_table
from cptlite.cli.options import JsonOption, complete_method, split_at_commas
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.methods.table import find_method
from cptlite.shots import say_shots

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, or results.json files.", show_default="runs"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="Only runs of these methods; several with commas, or repeated.",
            autocompletion=complete_method,
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="Also a table with a row per task, for every shots.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to draw accuracy against shots into.")] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="File for one page: tables, curves, and where each number is from (extra html)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print mean and standard deviation over seeds per method, configuration and number of shots."""
    from cptlite import reporting

    wanted = [name for name in split_at_commas(method or []) if find_method(name)]
    found = reporting.load_results(runs or [Path("runs")])
    loaded = [result for result in found if not wanted or result["method"] in wanted]
    if not loaded:
        there = ", ".join(dict.fromkeys(str(result["method"]) for result in found))
        raise DataError(
            f"wanted runs of {', '.join(wanted)}, found those of {shown(there)}: train some, or ask for these"
        )
    for result in loaded:
        if not result.get("config"):
            folder = shown(result["folder"])
            note(f"no configuration recorded, so put with others like it by method and variant: {folder}")
    groups = reporting.group_results(loaded)
    if json:
        summaries = {title: reporting.summarize(each) for title, each in groups.items()}
        rows = [(title, each) for title, of_one in summaries.items() for each in of_one]
        print_results([{"group": title, **asdict(each), "shots": say_shots(each.shots)} for title, each in rows])
    for number, (title, results) in enumerate(groups.items(), start=1):
        if not json:
            print_table(reporting.summary_table(results, title))
        if tasks and not json:
            for shots in sorted({reporting.run_shots(result) for result in results} - {0}):
                print_table(reporting.method_task_table(results, shots, title))
        if out is not None:
            path = out / ("shots.png" if len(groups) == 1 else f"shots-{number}.png")
            note(f"drawn: {shown(reporting.draw_shots_plot(results, path, title))}")
    if html is not None:
        from cptlite.reporting.page import write_page

        note(f"written: {shown(write_page(loaded, html))}")
