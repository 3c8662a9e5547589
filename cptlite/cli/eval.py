"""``cptlite eval``: a finished run on other cached datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.choose import choose_backbone, choose_datasets, usable_caches
from cptlite.cli.console import note, print_results, print_table
from cptlite.cli.options import CACHE_DIR, WHAT, CacheDirOption, DatasetOption, DeviceOption, JsonOption
from cptlite.process import loading

if TYPE_CHECKING:
    from cptlite.runs.reevaluate import Evaluation

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    dataset: DatasetOption = None,
    cache_dir: CacheDirOption = CACHE_DIR,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="The checkpoint's path, of a run whose backbone is one.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Rows to evaluate on: val or test.", rich_help_panel=WHAT)
    ] = "test",
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="Predict all test rows of a task together, by TransCLIP, from the run's scores and where the rows "
            "lie: no row of other tables.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Also tables of the classes and of the pairs most confused."),
    ] = False,
    confusion: Annotated[
        Path | None,
        typer.Option("--confusion", help="PNG to draw, for each task, which class is taken for which."),
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option("--reliability", help="PNG to draw, for each task, how often it is right by how sure it is."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="CSV to write, a row for each image with the rank of its class."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Evaluate a finished run on other cached images of its classes.

    All of a task's classes or some, in any order; by default the run's own datasets, as they are in --cache-dir. What
    comes out is written to eval/ in the run's folder, with the pairs of classes that are confused most and how well
    probabilities are calibrated (ECE); the run's own files stay as they are. With --transductive a prediction hangs on
    all test images of its task, without their labels, and a run of training images takes these too.
    """
    with loading():
        from cptlite.cache import CacheFolder
        from cptlite.datasets import load_catalog
        from cptlite.environment import find_device
        from cptlite.reporting import run_table
        from cptlite.reporting.mistakes import class_table, confused_table
        from cptlite.runs.load import read_run
        from cptlite.runs.reevaluate import check_outside, evaluate_run
        from cptlite.runs.transductive import read_transduction, support_datasets

    place = find_device(device)
    found = read_run(run, device=place, backbone=backbone)
    for path in (confusion, reliability, predictions):
        check_outside(run, path)
    with CacheFolder(cache_dir) as folder:
        cached = usable_caches(folder)
        chosen = choose_backbone(cached, backbone or found.stored.backbone.name, cache_dir)
        names = choose_datasets(cached[chosen], dataset or found.config.datasets, load_catalog(), chosen)
        own = support_datasets(found.config) if transductive else ()
        opened = folder.open(replace(found.stored.backbone, name=chosen), tuple(dict.fromkeys((*names, *own))))
        by_name = {cache.fingerprint.dataset: cache for cache in opened}
        transduction = None
        if transductive:
            support, trained_on = [by_name[name] for name in own], found.trained_on
            transduction = read_transduction(found.config, found.stored.tasks, support, trained_on, place)
        evaluated = evaluate_run(found, [by_name[name] for name in names], place, split, transduction)
    if json:
        print_results([evaluated.results])
    else:
        print_table(run_table(evaluated.results))
        for table in (class_table, confused_table) if per_class else ():
            print_table(table(evaluated.results))
    _write(evaluated, confusion, reliability, predictions)
    note(f"written: {evaluated.path}")


def _write(evaluated: Evaluation, confusion: Path | None, reliability: Path | None, predictions: Path | None) -> None:
    """Write the pictures and the CSV that were asked for."""
    from cptlite.files import write_alone
    from cptlite.reporting.mistakes import draw_confusion, draw_reliability
    from cptlite.runs.predictions import pack_predictions

    if predictions is not None:
        write_alone(predictions, pack_predictions(evaluated.predictions))
        note(f"written: {predictions}")
    for path, draw in ((confusion, draw_confusion), (reliability, draw_reliability)):
        if path is not None:
            note(f"drawn: {draw(evaluated.predictions, path)}")
