"""``cptlite train``: runs from cached features to a table of results."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from cptlite.config import RunConfig, resolve_config, share_options
from cptlite.errors import CptliteError
from cptlite.process import keep_freed_memory, loading
from cptlite.shots import say_shots

if TYPE_CHECKING:
    from cptlite.backbones import Backbone
    from cptlite.cache import CacheFolder, FeatureCache

__all__ = ["train"]

WORTH_TELLING = 60.0  # seconds of a training, from which on a faster way is named


@with_training_options
def train(
    *,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            help="What to train: `cptlite methods` lists them, `--method NAME --help` shows the options of one. "
            "Several with commas, or repeated: an option goes to those that have it. (default: softcpt)",
            autocompletion=complete_method,
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
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
    "--held-out-task all" one of each task. Several methods are trained one after the other; where one fails, the others
    are trained all the same. A run that was stopped goes on with the same command.
    """
    methods = list(dict.fromkeys(split_at_commas(method or ["softcpt"])))
    grid = {name: settings.pop(name, None) or [getattr(RunConfig, name)] for name in REPEATED}
    shared = share_options(settings, methods)
    with loading():
        from cptlite.backbones import load_backbone
        from cptlite.cache import CacheFolder

    with CacheFolder(cache_dir) as cached:
        bases = _configure(split_at_commas(dataset or []), backbone, cached, suite, shared)
        # Of the many sizes of the plain path little would fit again.
        keep_freed_memory(large=all(base.text_path == "fused" for base in bases))
        how = {name: getattr(bases[0], name) for name in ("device", "precision", "linear_backend")}
        loaded = load_backbone(bases[0].backbone, **how)
        if loaded.remark:
            note(loaded.remark)
        caches = cached.open(loaded, bases[0].datasets)
        works = [_plan(base, grid, caches, out, force) for base in bases]
        _say_shares(shared, settings)
        _warn(caches, [group for work in works if strict or not work.finished for group in work.groups], strict)
        options = {"out": out, "force": force, "lock": lock, "predictions": predictions}
        failed: dict[str, CptliteError] = {}
        results: list[dict[str, Any]] = []
        for work in works:
            resolved = {name: getattr(loaded, name) for name in how} | {"cache_dir": cache_dir, **_words(grid)}
            everything = work.base.to_json() | resolved | {"run": work.folders} if verbose else None
            show_configuration("train", _sum_up(work.base, loaded, grid, len(work.folders), out), everything)
            try:
                if not work.finished:
                    _tell_time(loaded, caches, work.groups)
                groups = work.groups if together else [[config] for config in chain(*work.groups)]
                results += _execute(groups, loaded, caches, options)
            except CptliteError as error:  # the other methods are trained all the same
                failed[work.base.method] = error
    _end(works, results, failed, json)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What there is to do for one method: runs in groups that learn from the same classes, and their folders."""

    base: RunConfig
    groups: list[list[RunConfig]]
    folders: list[Path]
    finished: bool


def _plan(base: RunConfig, grid: dict[str, Any], caches: list[FeatureCache], out: Path, force: bool) -> _Work:
    from cptlite.runs.folders import run_folder
    from cptlite.runs.seen import leave_one_out

    pairs = list(dict.fromkeys(product(grid["shots"], grid["seed"])))
    groups = [
        [replace(config, shots=shots, seed=seed) for shots, seed in pairs]
        for config in leave_one_out(base, [task for cache in caches for task in cache.tasks])
    ]
    folders = [run_folder(out, config) for config in chain(*groups)]
    finished = not force and all((folder / "results.json").exists() for folder in folders)
    return _Work(base=base, groups=groups, folders=folders, finished=finished)


def _end(works: list[_Work], results: list[dict[str, Any]], failed: dict[str, CptliteError], json: bool) -> None:
    """Show what came out and where it lies; then the errors, if there were any."""
    if results or json and len(works) > 1:
        _show(results, json)
    for work in works:
        said, advice = ("already done", " (--force trains again)") if work.finished else ("written", "")
        for folder in work.folders if work.base.method not in failed else ():
            note(f"{said}: {folder}{advice}")
    if failed:
        errors = list(failed.values())
        if len(works) == 1:
            raise errors[0]
        raise type(errors[0])("\n\n".join(f"{method}: {error}" for method, error in failed.items()))


def _say_shares(shared: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    """Say which options reach some of several methods alone."""
    if len(shared) > 1:
        note(f"{len(shared)} methods, one after the other: {', '.join(shared)}")
    having: dict[tuple[str, ...], list[str]] = {}
    for name in settings:
        having.setdefault(tuple(method for method in shared if name in shared[method]), []).append(name)
    for methods, names in having.items():
        if len(methods) < len(shared):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            note(f"for {', '.join(methods)} alone: {flags}")


def _words(grid: dict[str, Any]) -> dict[str, Any]:
    return grid | {"shots": list(map(say_shots, grid["shots"]))}


def _sum_up(base: RunConfig, backbone: Backbone, grid: dict[str, Any], runs: int, out: Path) -> list[str]:
    """Say what is trained on what, how, and what is not the default, in three lines."""
    numbers = "; ".join(f"{name} {', '.join(map(str, words))}" for name, words in _words(grid).items())
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
    words: list[str], backbone: str | None, folder: CacheFolder, suite: str, shared: dict[str, dict[str, Any]]
) -> list[RunConfig]:
    """Complete each method's flags with what is cached."""
    from cptlite.datasets import load_catalog
    from cptlite.runs.sources import pinned

    cached = usable_caches(folder)
    chosen = choose_backbone(cached, backbone, folder.path)
    catalog = load_catalog()
    names = choose_datasets(cached[chosen], words, catalog, chosen)
    place = {"suite": suite or choose_suite(names, catalog), "datasets": names, "backbone": chosen}
    return [pinned(resolve_config({**given, **place, "method": method})) for method, given in shared.items()]
