"""``cptlite train``: runs from cached features to a table of results."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.choose import choose_backbone, choose_datasets, choose_suite, usable_caches
from cptlite.cli.console import note, print_results, print_table, progress, show_configuration, some
from cptlite.cli.options import (
    CACHE_DIR,
    HOW,
    WHAT,
    WHERE,
    CacheDirOption,
    DatasetOption,
    JsonOption,
    VerboseOption,
    complete_method,
    split_at_commas,
)
from cptlite.cli.train_options import REPEATED, with_training_options
from cptlite.config import RunConfig, check_names, resolve_config
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.backbones import Backbone
    from cptlite.cache import CacheFolder, FeatureCache

__all__ = ["train"]

WORTH_TELLING = 60.0  # seconds of a training, from which on a faster way is named


@with_training_options
def train(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="What to train: `cptlite methods` lists them, `--method NAME --help` shows the options of one.",
            autocompletion=complete_method,
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
    verbose: VerboseOption = False,
    **settings: Any,
) -> None:
    """Train on cached features and evaluate.

    On everything cached, unless --dataset narrows it. Several --shots and --seed make a run of each pair, and with
    "--held-out-task all" one of each task. A run that was stopped goes on with the same command.
    """
    check_names(method, settings)
    with loading():
        from cptlite.backbones import load_backbone
        from cptlite.cache import CacheFolder
        from cptlite.runs.folders import run_folder
        from cptlite.runs.seen import leave_one_out

    grid = {name: settings.pop(name, None) or [getattr(RunConfig, name)] for name in REPEATED}
    with CacheFolder(cache_dir) as cached:
        base = _configure(split_at_commas(dataset or []), backbone, cached, suite, {"method": method, **settings})
        keep_freed_memory(large=base.text_path == "fused")  # of the plain path's many sizes little would fit again
        how = {"device": base.device, "precision": base.precision, "linear_backend": base.linear_backend}
        loaded = load_backbone(base.backbone, **how)
        if loaded.remark:
            note(loaded.remark)
        caches = cached.open(loaded, base.datasets)
        pairs = list(dict.fromkeys(product(grid["shots"], grid["seed"])))
        groups = [
            [replace(config, shots=shots, seed=seed) for shots, seed in pairs]
            for config in leave_one_out(base, [task for cache in caches for task in cache.tasks])
        ]
        folders = [run_folder(out, config) for config in chain(*groups)]
        finished = not force and all((folder / "results.json").exists() for folder in folders)
        resolved = {name: getattr(loaded, name) for name in how} | {"cache_dir": cache_dir, **grid}
        everything = base.to_json() | resolved | {"run": folders} if verbose else None
        show_configuration("train", _sum_up(base, loaded, grid, len(folders), out), everything)
        if strict or not finished:
            _warn(caches, groups, strict)
        if not finished:
            _tell_time(loaded, caches, groups)
        options = {"out": out, "force": force, "lock": lock, "predictions": predictions}
        results = _execute(groups if together else [[config] for config in chain(*groups)], loaded, caches, options)
    _show(results, json)
    for written in folders:
        note(f"{'already done' if finished else 'written'}: {written}{' (--force trains again)' if finished else ''}")


def _sum_up(base: RunConfig, backbone: Backbone, grid: dict[str, Any], runs: int, out: Path) -> list[str]:
    """Say what is trained on what, how, and what is not the default, in three lines."""
    numbers = "; ".join(f"{name} {', '.join(map(str, grid[name]))}" for name in REPEATED)
    named = ", ".join(base.datasets) if len(base.datasets) < 3 else f"{base.suite} ({len(base.datasets)} datasets)"
    how = "fitted at once"
    if recipe := base.recipe:
        batch = f"batches of {recipe.batch_size}" if recipe.batch_size else "all rows a step"
        how = f"recipe {base.recipe_name}, {recipe.epochs} epochs, {batch}"
    changed = [f"{name.replace('_', '-')} {value}" for name, value in base.differences()]
    method = "-".join(word for word in (base.method, base.variant) if word)
    return [
        f"{method} on {named}; {numbers}" + (f" ({runs} runs)" if runs > 1 else ""),
        f"backbone {base.backbone} on {backbone.device}, {backbone.precision}; {how}",
        f"into {out} (every setting: -v)" + (f"; not the default: {some(changed)}" if changed else ""),
    ]


def _warn(caches: list[FeatureCache], groups: list[list[RunConfig]], strict: bool) -> None:
    """Say what is short of the rows, a line each, before anything is trained; ``strict`` refuses it."""
    from cptlite.datasets.checks import refuse_warnings
    from cptlite.runs.evaluate import untested_classes
    from cptlite.runs.rows import short_rows

    warnings: dict[str, list[str]] = {}
    for found in (*(short_rows(caches, group) for group in groups), untested_classes(caches)):
        for name, lines in found.items():
            known = warnings.setdefault(name, [])
            known += [line for line in lines if line not in known]
    for name, lines in warnings.items():
        for line in lines:
            note(f"warning: {name}: {line}")
    if strict:
        refuse_warnings(warnings)


def _tell_time(backbone: Backbone, caches: list[FeatureCache], groups: list[list[RunConfig]]) -> None:
    """Say how long the runs will take, and what would make them much shorter."""
    from cptlite.reporting import duration
    from cptlite.runs.estimate import estimate

    found = estimate(groups[0], backbone, caches)
    if found is None:
        return
    seconds, full = (len(groups) * steps * found.step_seconds for steps in (found.steps, found.full_steps))
    words = f"about {duration(seconds)}: {len(groups) * found.steps:,.0f} steps of {duration(found.step_seconds)}"
    if full and seconds > WORTH_TELLING and full < seconds / 2:
        words += f"; --recipe full: about {duration(full)}"
    if seconds > WORTH_TELLING and groups[0][0].precision == "auto" and backbone.text_tower.faster_in_bf16:
        words += "; --precision bf16 is faster on this processor"
    note(words)


def _execute(
    groups: list[list[RunConfig]], backbone: Backbone, caches: list[FeatureCache], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Carry groups of runs out, those of a group in one forward."""
    from cptlite.runs.execute import execute_runs
    from cptlite.runs.rows import count_steps

    results: list[dict[str, Any]] = []
    steps = [sum(count_steps(caches, config) for config in group) for group in groups]
    sizes = list(map(len, groups))
    with progress("training", "steps") as tick:
        for number, group in enumerate(groups):
            filed = f"{sum(sizes[:number])} of {sum(sizes)} runs" if sum(sizes) > 1 else ""

            def count(done: int, before: int = sum(steps[:number]), said: str = filed) -> None:
                tick(before + done, sum(steps), said=said)

            count(0)
            results += execute_runs(group, backbone, caches, on_step=count, **options)
    return results


def _show(results: list[dict[str, Any]], json: bool) -> None:
    from cptlite.reporting import group_results, run_table, summary_table

    if json:
        print_results(results)
    elif len(results) == 1:
        print_table(run_table(results[0]))
    else:
        for title, group in group_results(results).items():
            print_table(summary_table(group, title))


def _configure(
    words: list[str], backbone: str | None, folder: CacheFolder, suite: str, settings: dict[str, Any]
) -> RunConfig:
    """Complete the flags with what is cached."""
    from cptlite.datasets import load_catalog

    cached = usable_caches(folder)
    chosen = choose_backbone(cached, backbone, folder.path)
    catalog = load_catalog()
    names = choose_datasets(cached[chosen], words, catalog, chosen)
    suite = suite or choose_suite(names, catalog)
    return resolve_config(settings | {"suite": suite, "datasets": names, "backbone": chosen})
