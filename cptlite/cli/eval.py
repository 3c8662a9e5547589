"""``cptlite eval``: a finished run on other cached datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cptlite.cli.choose import choose_backbone, choose_datasets, usable_caches
from cptlite.cli.console import note, print_json, print_table
from cptlite.cli.options import CACHE_DIR, WHAT, CacheDirOption, DatasetOption, DeviceOption, JsonOption

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
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Evaluate a finished run on other cached images of its classes.

    All of a task's classes or some, in any order; by default the run's own datasets, as they are in --cache-dir. What
    comes out is written to eval/ in the run's folder; the run's own files stay as they are.
    """
    from cptlite.cache import CacheFolder
    from cptlite.datasets import load_catalog
    from cptlite.environment import find_device
    from cptlite.reporting import run_table
    from cptlite.runs.load import read_run
    from cptlite.runs.reevaluate import evaluate_run

    place = find_device(device)
    found = read_run(run, device=place, backbone=backbone)
    with CacheFolder(cache_dir) as folder:
        cached = usable_caches(folder)
        chosen = choose_backbone(cached, backbone or found.stored.backbone.name, cache_dir)
        names = choose_datasets(cached[chosen], dataset or found.config.datasets, load_catalog(), chosen)
        caches = folder.open(replace(found.stored.backbone, name=chosen), names)
        results, path = evaluate_run(found, run, caches, place)
    if json:
        print_json(results)
    else:
        print_table(run_table(results))
    note(f"written: {path}")
