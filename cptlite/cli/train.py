"""``cptlite train``: runs from cached features to a table of results."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.choose import choose_backbone, choose_datasets, choose_suite
from cptlite.cli.console import note, print_json, print_table, progress, show_configuration
from cptlite.cli.options import (
    CACHE_DIR,
    HOW,
    WHAT,
    WHERE,
    CacheDirOption,
    DatasetOption,
    JsonOption,
)
from cptlite.cli.train_options import REPEATED, with_training_options
from cptlite.config import RunConfig, check_names, resolve_config
from cptlite.errors import DataError

if TYPE_CHECKING:
    from cptlite.backbones import Backbone
    from cptlite.cache import CacheFolder, FeatureCache

__all__ = ["train"]


@with_training_options
def train(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="What to train: `cptlite methods` lists them, `--method NAME --help` shows the options of one.",
            rich_help_panel=WHAT,
        ),
    ] = "softcpt",
    dataset: DatasetOption = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Whose features to train on; by default the one that is cached.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    cache_dir: CacheDirOption = CACHE_DIR,
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs.", rich_help_panel=WHERE)] = Path("runs"),
    suite: Annotated[
        str,
        typer.Option(
            "--suite", help="Folder of the results in --out; by default made of the datasets.", rich_help_panel=WHERE
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.", rich_help_panel=HOW)] = False,
    lock: Annotated[
        bool,
        typer.Option(
            "--lock/--no-lock",
            help="Hold the run's folder against other processes; --no-lock on file systems without locks.",
            rich_help_panel=HOW,
        ),
    ] = True,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions/--no-predictions",
            help="Keep what is predicted for each test image, in the run's predictions.csv.",
            rich_help_panel=WHERE,
        ),
    ] = True,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse data of which some is short: see the warnings.", rich_help_panel=HOW),
    ] = False,
    together: Annotated[
        bool,
        typer.Option("--together", help="Train several runs as an axis of one forward.", rich_help_panel=HOW),
    ] = False,
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train on cached features and evaluate.

    On everything cached, unless --dataset narrows it. Several --shots and --seed make a run of each pair. A run that
    was stopped goes on with the same command.
    """
    check_names(method, settings)
    from cptlite.backbones import load_backbone
    from cptlite.cache import CacheFolder
    from cptlite.runs.folders import run_folder

    grid = {name: settings.pop(name, None) or [getattr(RunConfig, name)] for name in REPEATED}
    with CacheFolder(cache_dir) as cached:
        base = _configure(dataset or [], backbone, cached, suite, {"method": method, **settings})
        configs = [replace(base, shots=shots, seed=seed) for shots, seed in product(grid["shots"], grid["seed"])]
        configs = list(dict.fromkeys(configs))
        folders = [run_folder(out, config) for config in configs]
        finished = not force and all((folder / "results.json").exists() for folder in folders)
        loaded = load_backbone(base.backbone, device=base.device, precision=base.precision)
        resolved = {"device": loaded.device, "precision": loaded.precision, "cache_dir": cache_dir, **grid}
        show_configuration("train", base.to_json() | resolved | {"run": folders})
        caches = cached.open(loaded, base.datasets)
        if strict or not finished:
            _warn(caches, configs, strict)
        options = {"out": out, "force": force, "lock": lock, "predictions": predictions}
        results = _execute(configs, loaded, caches, together, options)
    _show(results, json)
    for written in folders:
        note(f"{'already done' if finished else 'written'}: {written}{' (--force trains again)' if finished else ''}")


def _warn(caches: list[FeatureCache], configs: list[RunConfig], strict: bool) -> None:
    """Say what is short of the rows, a line each, before anything is trained; ``strict`` refuses it."""
    from cptlite.datasets.checks import refuse_warnings
    from cptlite.runs.evaluate import untested_classes
    from cptlite.runs.rows import short_rows

    trained, tested = short_rows(caches, configs), untested_classes(caches)
    warnings = {name: [*trained.get(name, ()), *lines] for name, lines in tested.items()}
    for name, lines in warnings.items():
        for line in lines:
            note(f"warning: {name}: {line}")
    if strict:
        refuse_warnings(warnings)


def _execute(
    configs: list[RunConfig],
    backbone: Backbone,
    caches: list[FeatureCache],
    together: bool,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """Carry the runs out, in one forward or one after the other."""
    from cptlite.runs.execute import execute_runs

    results: list[dict[str, Any]] = []
    epochs = configs[0].recipe.epochs if configs[0].recipe else 0
    with progress(configs[0].method, "epochs") as tick:
        for group in [configs] if together else [[config] for config in configs]:
            before = epochs * len(results)

            def count(done: float, loss: float, before: int = before) -> None:
                tick(before + done, epochs * len(configs))

            results += execute_runs(group, backbone, caches, on_epoch=count, **options)
    return results


def _show(results: list[dict[str, Any]], json: bool) -> None:
    from cptlite.reporting import run_table, summary_table

    if json:
        print_json(results[0] if len(results) == 1 else results)
    elif len(results) == 1:
        print_table(run_table(results[0]))
    else:
        print_table(summary_table(results))


def _configure(
    words: list[str], backbone: str | None, folder: CacheFolder, suite: str, settings: dict[str, Any]
) -> RunConfig:
    """Complete the flags with what is cached."""
    from cptlite.datasets import load_catalog

    cached: dict[str, list[str]] = {}
    for summary in folder.summaries:
        if summary.complete:
            cached.setdefault(summary.backbone, []).append(summary.dataset)
        else:
            note(f"left out: {summary.path}: {summary.problem or 'its pass is not finished'}")
    if folder.summaries and not cached:
        raise DataError(
            f"wanted usable caches in {folder.path}, found none among {len(folder.summaries)}: what to do with each "
            f"stands beside it"
        )
    chosen = choose_backbone(cached, backbone, folder.path)
    catalog = load_catalog()
    names = choose_datasets(cached[chosen], words, catalog, chosen)
    suite = suite or choose_suite(names, catalog)
    return resolve_config(settings | {"suite": suite, "datasets": names, "backbone": chosen})
