"""``cptlite extend``: a run's classifier with further classes, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.console import note
from cptlite.cli.options import HOW, WHAT, WHERE, DeviceOption
from cptlite.cli.predict import CheckpointOption, ClassesOption, class_names
from cptlite.datasets.text_files import shown
from cptlite.errors import UsageError
from cptlite.process import loading

__all__ = ["extend"]


def extend(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", help="File to write, .safetensors.", rich_help_panel=WHERE, show_default=False)
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Id or name of one of the run's tasks, or the words of a new one.",
            rich_help_panel=WHAT,
            show_default="the run's, if it has one",
        ),
    ] = None,
    classes: ClassesOption = None,
    backbone: CheckpointOption = None,
    device: DeviceOption = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.", rich_help_panel=HOW)] = False,
) -> None:
    """Write a run's classifier with further classes, without any training.

    Weights of new classes come from their names and from what was learned; those of the others stay as they are. A
    method that all tasks share has them for new tasks too: softcpt makes the context from the task's name. `cptlite
    predict FILE` and cptlite.load_classifier read it. The run's own files stay as they are.
    """
    with loading():
        from cptlite.classifiers import pack_classifier
        from cptlite.environment import find_device
        from cptlite.files import write_alone
        from cptlite.runs.reuse import read_reusable

    names = class_names(classes)
    if not names:
        raise UsageError("wanted names of classes to add, got none: give --classes")
    if out.exists() and not force:
        raise UsageError(f"wanted a new file, got {shown(out)}, which is there: give another --out, or --force")
    found = read_reusable(run, device=find_device(device), backbone=backbone)
    found.check_outside(out)
    extended = found.extended([task] if task else [], names)
    write_alone(out, pack_classifier(extended))
    counts = ", ".join(f"{each.id} {len(each.class_names)}" for each in extended.tasks)
    note(f"classes  {counts}\nwritten: {out}")
