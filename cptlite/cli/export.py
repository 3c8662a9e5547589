"""``cptlite export``: a finished run as a file that needs no cptlite, with a model card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.console import note, print_results
from cptlite.cli.options import HOW, WHAT, WHERE, JsonOption
from cptlite.datasets.text_files import shown
from cptlite.process import loading

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            readable=False,
            help="The file, in .safetensors or .onnx; the card is FILE.md beside it.",
            rich_help_panel=WHERE,
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors (class weights) or onnx (pixels to scores; the extra onnx); by default as --out ends.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = "",
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="The checkpoint's path, for onnx of a run whose backbone is one.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.", rich_help_panel=HOW)] = False,
    json: JsonOption = False,
) -> None:
    """Write a run's classifier for use without cptlite, and a model card beside it.

    safetensors: class weights, names, tasks, logit scale and preprocessing.

    onnx: image tower and classifier, for batches of any size, compared with the run.
    """
    with loading():
        from cptlite.runs.export import export_run

    report = export_run(run, out, format=format, backbone=backbone, force=force)
    if json:
        print_results([{**asdict(report), "path": str(report.path), "card": str(report.card)}])
        return
    checked = "" if report.difference is None else f", scores differ by {report.difference:.1g} of the largest"
    print(f"{report.format} of {report.classes} classes{checked}: {shown(report.path)}")
    note(f"written: {report.card}")
