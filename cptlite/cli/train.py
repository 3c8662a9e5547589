"""``cptlite train``: one run from cached features to a table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from cptlite.cli.train_options import with_training_options
from cptlite.config import TrainConfig

__all__ = ["train"]


@with_training_options
def train(
    *,
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
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train on cached features and evaluate.

    On everything cached, unless --dataset narrows it. A run that was stopped goes on with the same command.
    """
    config = _configure(dataset or [], backbone, cache_dir, suite, settings)
    from cptlite.run import execute_run
    from cptlite.run_files import run_folder

    folder = run_folder(out, config)
    finished = not force and (folder / "results.json").exists()
    from cptlite.backbone import load_backbone

    loaded = load_backbone(config.backbone, device=config.device, precision=config.precision)
    resolved = {"device": loaded.device, "precision": loaded.precision, "cache_dir": cache_dir, "run": folder}
    show_configuration("train", config.to_json() | resolved)
    with progress(config.method, "epochs") as tick:
        results = execute_run(
            config,
            loaded,
            cache_dir=cache_dir,
            out=out,
            force=force,
            on_epoch=lambda done, loss: tick(done, config.epochs),
        )
    if json:
        print_json(results)
    else:
        from cptlite.reporting import run_table

        print_table(run_table(results))
    note(f"{'already done' if finished else 'written'}: {folder}{' (--force trains again)' if finished else ''}")


def _configure(
    words: list[str], backbone: str | None, cache_dir: Path, suite: str, settings: dict[str, Any]
) -> TrainConfig:
    """Complete the flags with what is cached."""
    from cptlite.backbone import backbone_slug
    from cptlite.cache import list_caches
    from cptlite.datasets import load_catalog
    from cptlite.methods.table import find_method, resolve_config

    find_method(settings["method"], settings.get("variant", ""))
    cached: dict[str, list[str]] = {}
    for summary in list_caches(cache_dir):
        if summary.complete:
            cached.setdefault(summary.backbone, []).append(summary.dataset)
        else:
            note(f"left out: {summary.path}: {summary.problem or 'its pass is not finished'}")
    if backbone is not None:
        slug = backbone_slug(backbone)
        backbone = next((name for name in cached if backbone_slug(name) == slug), backbone)
    chosen = choose_backbone(cached, backbone, cache_dir)
    catalog = load_catalog()
    names = choose_datasets(cached[chosen], words, catalog, chosen)
    suite = suite or choose_suite(names, catalog)
    return resolve_config(settings | {"suite": suite, "datasets": names, "backbone": chosen})
