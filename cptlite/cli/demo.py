"""``cptlite demo``: the main job on drawings and digits, without data or network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.console import invocation, note, print_results, print_table, progress
from cptlite.cli.options import HOW, WHAT, WHERE, JsonOption
from cptlite.options import options_of
from cptlite.training.recipe import FULL, Recipe

__all__ = ["demo"]

RECIPE_HELP = next(each.help for each in options_of(Recipe) if each.name == "recipe")
STAGES = {"draw": ("drawing", "images"), "cache": ("encoding", "images"), "train": ("training", "steps")}


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for all that the demo makes.", rich_help_panel=WHERE)
    ] = Path("demo"),
    every_method: Annotated[
        bool, typer.Option("--all", help="Train every method there is, not only four.", rich_help_panel=WHAT)
    ] = False,
    recipe: Annotated[str, typer.Option("--recipe", help=RECIPE_HELP, rich_help_panel=HOW)] = FULL,
    json: JsonOption = False,
) -> None:
    """Run the whole on six small tasks, offline.

    Draws the tasks, caches them, trains SoftCPT and its baselines, and compares them. What is done is not done again.
    """
    note("cptlite demo: six small tasks; 1, 4, 16 shots; 3 seeds; minutes on two cores")
    from cptlite.demo import DemoPlan, run_demo
    from cptlite.methods.table import METHODS
    from cptlite.reporting import summary_table

    plan = DemoPlan(recipe=recipe)
    if every_method:  # zero-shot looks at no rows; the demo evaluates it once in any case
        plan = replace(plan, methods=tuple(name for name, entry in METHODS.items() if entry.needs_rows))
    with progress("loading", "steps") as bar:
        report = run_demo(
            out, plan, on_progress=lambda far: bar(far.done, far.total, *STAGES[far.stage], said=far.said)
        )
    if json:
        print_results(report.results)
    else:
        print_table(summary_table(report.results, "Six tasks of the demo: suite score"))
    cptlite = invocation()
    seconds = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in report.seconds.items())
    note(
        f"picture  {report.plot}\n"
        f"images   {report.data}\n"
        f"caches   {report.caches}\n"
        f"runs     {report.runs}\n"
        f"took     {seconds}\n"
        "\n"
        "Three seeds tell methods apart that are five points or more from each other;\nfor less, compare ten, paired.\n"
        "\n"
        "Next:\n"
        f"  {cptlite} report {report.runs} --tasks\n"
        f"  {cptlite} predict {report.example} {report.data}/demo/counts/test --task demo_counts\n"
        f"  {cptlite} train --cache-dir {report.caches} --out {report.runs} --method softcpt --variant cata --shots 4\n"
        f"  {cptlite} train --cache-dir {report.caches} --out {report.runs} --method softcpt --recipe full "
        f"--held-out-task demo_counts\n"
        f"  {cptlite} train --method kgcoop --help\n"
        f"  {cptlite} datasets"
    )
