"""``cptlite demo``: the main job on drawings and digits, without data or network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.console import invocation, note, print_results, print_table, progress
from cptlite.cli.options import HOW, WHAT, WHERE, JsonOption, complete_method, split_at_commas
from cptlite.cli.train_options import whole_numbers
from cptlite.errors import UsageError
from cptlite.methods.table import METHODS, find_method
from cptlite.options import options_of
from cptlite.shots import say_shots
from cptlite.training.recipe import FULL, Recipe

__all__ = ["demo"]

RECIPE_HELP = next(each.help for each in options_of(Recipe) if each.name == "recipe")
STAGES = {"draw": ("drawing", "images"), "cache": ("encoding", "images"), "train": ("training", "steps")}


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for all that the demo makes.", rich_help_panel=WHERE)
    ] = Path("demo"),
    every_method: Annotated[
        bool,
        typer.Option("--all", help="Train every method that its defaults suffice for.", rich_help_panel=WHAT),
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="What to train beside zero-shot; several with commas, or repeated.",
            autocompletion=complete_method,
            rich_help_panel=WHAT,
            show_default="linear-probe, coop-mt, coop-ca, softcpt",
        ),
    ] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(
            "--shots",
            help="Training images per class, or all; several with commas, or repeated.",
            rich_help_panel=WHAT,
            show_default="1, 4, 16",
        ),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help=RECIPE_HELP, rich_help_panel=HOW)] = FULL,
    json: JsonOption = False,
) -> None:
    """Run the whole on six small tasks, offline.

    Draws the tasks, caches them, trains SoftCPT and its baselines, and compares them. What is done is not done again.
    """
    if every_method and method:
        raise UsageError("--all trains every method, got --method too: leave one of them out")
    numbers = tuple(sorted(set(whole_numbers("shots", shots or ["1,4,16"]))))
    names = [name for name in METHODS if not METHODS[name].wants] if every_method else split_at_commas(method or [])
    chosen = [name for name in dict.fromkeys(names) if find_method(name).needs_rows]  # zero-shot is evaluated anyway
    said = ", ".join(str(say_shots(number)) for number in numbers)
    note(f"cptlite demo: six small tasks; {said} shots; 3 seeds; minutes on two cores")
    from cptlite.demo import DemoPlan, run_demo
    from cptlite.reporting import summary_table

    plan = DemoPlan(recipe=recipe, shots=numbers)
    if names:
        again = tuple(name for name in plan.paper_too if name in chosen)
        plan = replace(plan, methods=tuple(chosen), paper_too=again)
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
