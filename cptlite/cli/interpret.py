"""``cptlite interpret``: a look inside a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import note, print_results, print_table
from cptlite.cli.options import ROOT, WHAT, WHERE, DeviceOption, JsonOption, RootOption
from cptlite.cli.predict import CheckpointOption
from cptlite.errors import UsageError
from cptlite.process import loading

if TYPE_CHECKING:
    from cptlite.runs.interpret import Interpretation

__all__ = ["interpret"]

MOST_COMPARED = 12  # tasks that are compared in a table; a picture has room for more


def interpret(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    top: Annotated[
        int, typer.Option("--top", "-k", min=1, help="Words named for each vector.", rich_help_panel=WHAT)
    ] = 3,
    measure: Annotated[
        str, typer.Option("--measure", help="Of distance to words: euclidean or cosine.", rich_help_panel=WHAT)
    ] = "euclidean",
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Contexts of this task alone; the task of --class.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="A class: its contexts alone, its nearest and its hardest test images.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="PNG to draw the images of --class on.", rich_help_panel=WHERE),
    ] = None,
    tasks_plot: Annotated[
        Path | None,
        typer.Option("--tasks-plot", help="PNG to draw how alike the tasks' contexts are.", rich_help_panel=WHERE),
    ] = None,
    root: RootOption = ROOT,
    backbone: CheckpointOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Look inside a run with learned prompts: words, tasks, and images of a class.

    For each context vector the words of the vocabulary nearest to it, and how far training moved it; how alike the
    contexts of tasks are. For softcpt also the contexts that its meta network makes. With --class, by the run's
    predictions.csv, the test images that it is surest of, and those to whose class it gives the least.
    """
    with loading():
        from cptlite.environment import find_device
        from cptlite.runs.class_images import find_images_of
        from cptlite.runs.interpret import interpret_run
        from cptlite.runs.load import read_run
        from cptlite.runs.reevaluate import check_outside

    if sheet is not None and class_name is None:
        raise UsageError("wanted a class to draw images of, got none: give --class NAME beside --sheet")
    found = read_run(run, device=find_device(device), backbone=backbone)
    for path in (sheet, tasks_plot):
        check_outside(run, path)
    inside = interpret_run(found, top=top, measure=measure, task=task, class_name=class_name)
    if tasks_plot is not None and inside.similarity is None:
        raise UsageError(inside.none_because)
    files = find_images_of(found, inside.images, root) if sheet is not None and inside.images else {}
    if json:
        print_results([inside.to_json()])
    else:
        _print(inside)
    _draw(inside, tasks_plot, sheet, files)


def _print(inside: Interpretation) -> None:
    from cptlite.reporting.interpreted import class_images_table, similarity_table, words_tables

    for table in words_tables(inside.contexts, inside.words):
        print_table(table)
    if inside.similarity is None:
        note(inside.none_because)
    elif len(inside.similarity.tasks) <= MOST_COMPARED:
        print_table(similarity_table(inside.similarity))
    else:
        note(f"similarity of {len(inside.similarity.tasks)} tasks: draw it with --tasks-plot PNG, or give --json")
    if inside.images is not None:
        print_table(class_images_table(inside.images))


def _draw(inside: Interpretation, tasks_plot: Path | None, sheet: Path | None, files: dict[str, Path]) -> None:
    from cptlite.datasets.images import quiet_pillow
    from cptlite.reporting.interpreted import draw_class_sheet, draw_similarity

    if tasks_plot is not None and inside.similarity is not None:
        note(f"drawn: {draw_similarity(inside.similarity, tasks_plot)}")
    if sheet is not None and inside.images is not None:
        with quiet_pillow():
            note(f"drawn: {draw_class_sheet(inside.images, files, sheet)}")
