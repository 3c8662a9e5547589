"""``cptlite bench``: how long things take here."""

from __future__ import annotations

import json as jsons
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cptlite.cli.console import note, print_table, show_configuration
from cptlite.cli.options import HOW, WHAT, BackboneOption, DeviceOption, LinearBackendOption, PrecisionOption
from cptlite.datasets.text_files import read_json, shown
from cptlite.errors import DataError
from cptlite.files import write_alone
from cptlite.process import keep_freed_memory, loading

__all__ = ["bench"]

RESULTS = "Results"


def bench(
    stages: Annotated[
        list[str] | None,
        typer.Argument(help="What to time: text, train, cache, probe.", show_default="all"),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            help="Whose sizes to take: general10 (minutes on a CPU), plant6, fashion20; repeatable.",
            rich_help_panel=WHAT,
            show_default="plant6",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="JSON file {task: \\[class names]} with real names; by default names of as many tokens are made up.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    backbone: BackboneOption = "random:ViT-B/32",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    linear_backend: LinearBackendOption = "auto",
    repeats: Annotated[
        int,
        typer.Option("--repeats", help="Timed repeats of a figure at most; median counts.", rich_help_panel=HOW),
    ] = 5,
    seconds: Annotated[
        float,
        typer.Option("--seconds", help="Begin no further repeat of a figure after these.", rich_help_panel=HOW),
    ] = 15.0,
    shots: Annotated[
        int, typer.Option("--shots", help="Training images per class, of train and probe.", rich_help_panel=HOW)
    ] = 16,
    runs: Annotated[int, typer.Option("--runs", help="Runs that train together.", rich_help_panel=HOW)] = 3,
    epochs: Annotated[
        int,
        typer.Option("--epochs", help="Time whole trainings of so many epochs, not steps.", rich_help_panel=HOW),
    ] = 0,
    recipe: Annotated[
        str,
        typer.Option("--recipe", help="Of train: paper, or full, of which the whole is timed.", rich_help_panel=HOW),
    ] = "paper",
    class_fraction: Annotated[
        float,
        typer.Option("--class-fraction", help="Time a text step on such a share of classes too.", rich_help_panel=HOW),
    ] = 1.0,
    images: Annotated[int, typer.Option("--images", help="JPEG files of the caching pass.", rich_help_panel=HOW)] = 128,
    json: Annotated[
        Path | None, typer.Option("--json", help="File for every figure, machine-readable.", rich_help_panel=RESULTS)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="PNG file to draw the ratios into.", rich_help_panel=RESULTS)
    ] = None,
) -> None:
    """Time this machine: the text path against the original's way, training, the caching pass, the probe.

    Needs no data and no download. Close other programs: what else runs is timed too.
    """
    given = None if classes is None else _read_classes(classes)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # PyTorch's profiler reports on itself otherwise; read at its import
    with loading():
        from cptlite.timing import BenchPlan, bench_tables, draw_bench_plot, run_bench

    plan = BenchPlan(
        stages=tuple(stages or ()),
        suites=tuple(suite or ("plant6",)),
        classes=given,
        backbone=backbone,
        device=device,
        precision=precision,
        linear_backend=linear_backend,
        repeats=repeats,
        seconds=seconds,
        shots=shots,
        runs=runs,
        epochs=epochs,
        images=images,
        recipe=recipe,
        class_fraction=class_fraction,
    )
    names = f"class names of {shown(classes)}" if classes else "made-up class names"
    what = f"stages {', '.join(plan.stages) or 'all'}; {', '.join(plan.suites)}, {names}"
    show_configuration("bench", [what, f"backbone {backbone}, {repeats} repeats, {seconds:g} s for each at most"])
    keep_freed_memory()  # as train, cache and predict do, for all ways
    result = run_bench(plan, tell=note)
    for table in bench_tables(result):
        print_table(table)
    if json is not None:
        _write(json, result)
    if plot is not None:
        note(f"drawn: {draw_bench_plot(result, plot)}")


def _read_classes(path: Path) -> dict[str, list[str]]:
    try:
        read = read_json(path)
    except FileNotFoundError:
        raise DataError(f"wanted class names in {shown(path)}, which is not there: check --classes") from None
    except DataError as error:
        raise DataError(f"{error}; check --classes") from None
    if not isinstance(read, dict) or not all(_are_names(names) for names in read.values()):
        raise DataError(f'wanted {{"task": ["class name", ...], ...}} in {shown(path)}: check --classes')
    return read


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _write(path: Path, result: dict[str, Any]) -> None:
    write_alone(path, (jsons.dumps(result, indent=2) + "\n").encode())
    note(f"written: {path}")
