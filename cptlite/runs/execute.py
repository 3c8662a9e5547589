"""Runs from cache files to finished run directories.

Axes: R runs trained together, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.cache.layers import before_projection
from cptlite.config import OWN_ROWS, RunConfig, differ_in_rows_alone
from cptlite.environment import PeakMemory, describe_environment, measure_peak
from cptlite.errors import DataError, DataWarning, UsageError
from cptlite.methods.base import Learned, Problem
from cptlite.runs.evaluate import check_test_rows, evaluate
from cptlite.runs.files import (
    CLASSIFIER,
    CONFIG,
    PREDICTIONS,
    class_text_files,
    finished_results,
    remove_checkpoints,
    tidy_finished,
    write_class_texts,
    write_classifier,
    write_json,
    write_predictions,
    write_results,
    writing_run,
)
from cptlite.runs.folders import run_folder
from cptlite.runs.label_noise import flip_labels
from cptlite.runs.learn import OnEpoch, OnStep, Run, learn_runs, learned_files
from cptlite.runs.predictions import pack_predictions, suite_scores
from cptlite.runs.rows import check_caches, check_text, no_rows, short_rows
from cptlite.runs.seen import seen_sizes, seen_tasks
from cptlite.runs.sources import check_source
from cptlite.runs.support import draw_rows, support_fingerprints
from cptlite.shots import say_shots
from cptlite.text.encoder import TextEncoder

__all__ = ["execute_runs", "learn_in_memory"]


def execute_runs(
    configs: Sequence[RunConfig],
    backbone: Backbone,
    caches: Sequence[FeatureCache],
    *,
    out: Path,
    force: bool = False,
    lock: bool = True,
    predictions: bool = True,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> list[dict[str, Any]]:
    """Train, evaluate and file runs that differ in shots and seed alone, as an axis of one forward.

    Parameters
    ----------
    configs : sequence of RunConfig
        Those of a method that cannot share a forward are trained one after the other.
    backbone : Backbone
        The one named in the configurations.
    caches : sequence of FeatureCache
        Of the datasets named there, in order, and of the backbone's weights.
    out : Path
        Where runs go.
    force : bool
        Replace what is in the runs' folders.
    lock : bool
        Hold each run's folder against other processes; False where its file system has no locks.
    predictions : bool
        Keep what is predicted for each test image, in ``predictions.csv``.
    on_epoch : callable, optional
        Told the number of epochs that all runs together have done (of tasks learned separately, their mean) and the
        last epoch's mean loss.
    on_step : callable, optional
        Told the steps that all runs together have taken, as `count_steps` counts them; runs that were done before this
        call are left out.

    Returns
    -------
    list of dict
        What each ``results.json`` holds: names, ``config`` and ``caches`` (fingerprints) as in ``config.json``,
        per-task metrics, ``suite_score`` in [0, 1] and what else `suite_scores` makes of them, ``images_per_class``
        (training images of each class of a task that were learned from, in the classes' order), ``parameters``,
        ``choices`` (numbers chosen on validation rows, by task), ``seconds`` by phase (of a training together, the
        run's share), ``peak_mib`` (of the runs trained together, or evaluating this one, whichever is more) and
        ``peak_of`` (``run``, or ``process`` where the system counts from its start).

    Raises
    ------
    UsageError
        Unknown method, more shots than there are, a task to hold out that is not there, configurations that differ in
        more, or a folder holds another configuration.
    DataError
        A cache lacks rows that the method needs, or test rows.
    """
    if not differ_in_rows_alone(configs):
        raise UsageError(f"runs trained together may differ in {' and '.join(OWN_ROWS)} alone: train them one by one")
    folders = {config: run_folder(out, config) for config in configs}
    results = {config: None if force else _settled(config, caches, folder, lock) for config, folder in folders.items()}
    pending = [config for config, found in results.items() if found is None]
    if pending:
        caches = before_projection(caches, pending[0].entry.needs_pre_projection)
        check_text(pending[0], backbone)
        check_source(pending[0], backbone)
        check_caches(caches, pending)
        check_test_rows(caches, seen_sizes(pending[0], [task for cache in caches for task in cache.tasks]))
    with ExitStack() as held:
        for config in pending:
            held.enter_context(writing_run(folders[config], lock=lock, force=force))
            results[config] = finished_results(folders[config], _identity(config, caches))
            if results[config] is not None:  # by another process meanwhile, or by one that was killed at the very end
                remove_checkpoints(folders[config])
        pending = [config for config in pending if results[config] is None]
        for group in [pending] if configs[0].entry.stepped else [[config] for config in pending]:
            runs = [_begin(config, backbone, caches, folders[config]) for config in group]
            problem, target = new_problems(configs[0], backbone, caches)
            with measure_peak(backbone.device) as peak:
                learned = learn_runs(problem, runs, on_epoch, target, on_step) if runs else []
            for run, done in zip(runs, learned, strict=True):
                results[run.config] = _finish(run, done, target, backbone, caches, peak, predictions)
                if on_step and not run.config.entry.stepped:
                    on_step(1 + pending.index(run.config))
    return [found for config in configs if (found := results[config]) is not None]


def _settled(config: RunConfig, caches: Sequence[FeatureCache], folder: Path, lock: bool) -> dict[str, Any] | None:
    """Results of a run that is done: its folder need not be one to write to, but is tidied where it is."""
    try:
        found = finished_results(folder, _identity(config, caches))
    except DataError:  # another process may be at it: looked at again when the folder is held
        return None
    if found is not None and lock:
        tidy_finished(folder)
    return found


def learn_in_memory(
    config: RunConfig, backbone: Backbone, caches: Sequence[FeatureCache], on_epoch: OnEpoch | None = None
) -> Learned:
    """Learn one run as `execute_runs` does, without a folder and without a look at test rows.

    Warns
    -----
    DataWarning
        Rows are short: what `short_rows` says.
    """
    caches = before_projection(caches, config.entry.needs_pre_projection)
    check_text(config, backbone)
    check_source(config, backbone)
    check_caches(caches, [config])
    for name, lines in short_rows(caches, [config]).items():
        for line in lines:
            warnings.warn(f"{name}: {line}", DataWarning, stacklevel=3)  # of who calls `fit`
    run = _begin(config, backbone, caches)
    problem, target = new_problems(config, backbone, caches)
    return learn_runs(problem, [run], on_epoch, target)[0]


def new_problems(config: RunConfig, backbone: Backbone, caches: Sequence[FeatureCache]) -> tuple[Problem, Problem]:
    """Return what is learned, and what the classifier is of: all tasks of the caches; one object where they are one."""
    text = TextEncoder(backbone.text_tower, backbone.tokenizer, config.text_path, memory=config.text_memory)
    projection = backbone.projection if config.entry.needs_pre_projection else None
    target = Problem(tasks=tuple(task for cache in caches for task in cache.tasks), text=text, projection=projection)
    tasks = seen_tasks(target.tasks, seen_sizes(config, target.tasks))
    return target if tasks == target.tasks else replace(target, tasks=tasks), target


def _identity(config: RunConfig, caches: Sequence[FeatureCache]) -> dict[str, Any]:
    """Say what a run's folder must have been made from to be gone on with."""
    support = support_fingerprints(config, caches)
    return {
        "config": config.to_json(),
        "caches": {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches},
        **({"support": support} if support else {}),
    }


def _begin(config: RunConfig, backbone: Backbone, caches: Sequence[FeatureCache], folder: Path | None = None) -> Run:
    """Draw rows and write ``config.json``; what is refused leaves no folder behind."""
    started = time.monotonic()
    device, entry = backbone.device, config.entry
    if entry.needs_rows:
        train, val = draw_rows(config, caches, device)
        if config.label_noise:
            tasks = [task for cache in caches for task in cache.tasks]
            seen = seen_tasks(tasks, seen_sizes(config, tasks))
            train = flip_labels(train, seen, share=config.label_noise, seed=config.seed)
    else:
        train = val = no_rows(backbone.embed_dim, device)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        environment = describe_environment(device) | {"linear_backend": backbone.linear_backend}
        write_class_texts(folder, config.options)
        write_json(folder / CONFIG, {**_identity(config, caches), "environment": environment})
    return Run(config=config, train=train, val=val, folder=folder, load_seconds=time.monotonic() - started)


def _count_images(run: Run, problem: Problem) -> dict[str, list[int]]:
    """Count the training images that were learned from, of each class of each task."""
    sizes = seen_sizes(run.config, problem.tasks)
    counts = torch.bincount(run.train.labels, minlength=sum(sizes)).split(list(sizes))
    return {
        task.id: [*of_task.tolist(), *[0] * (len(task.class_names) - len(of_task))]
        for task, of_task in zip(problem.tasks, counts, strict=True)
    }


def _finish(
    run: Run,
    learned: Learned,
    problem: Problem,
    backbone: Backbone,
    caches: Sequence[FeatureCache],
    peak: PeakMemory,
    keep_predictions: bool,
) -> dict[str, Any]:
    """Evaluate and write the classifier, what it predicts and, last, the results."""
    assert run.folder is not None
    config, started = run.config, time.monotonic()
    with measure_peak(backbone.device) as after:
        predictions = evaluate(
            learned.classifier,
            caches,
            backbone.device,
            patches=config.entry.needs_patches,
            sizes=seen_sizes(config, problem.tasks),
        )
    seconds = {"load": run.load_seconds, "train": learned.seconds, "evaluate": time.monotonic() - started}
    write_classifier(run.folder, problem, learned.classifier, backbone)
    write_predictions(run.folder, pack_predictions(predictions) if keep_predictions else None)
    tasks = {each.task.id: each.scores() for each in predictions}
    results = {
        **{key: getattr(config, key) for key in ("method", "suite", "backbone", "seed", "variant")},
        "shots": say_shots(config.shots),
        "recipe": config.recipe_name,
        **_identity(config, caches),
        "tasks": tasks,
        **suite_scores(tasks),
        "images_per_class": _count_images(run, problem),
        "parameters": learned.num_parameters,
        "choices": learned.choices,
        "seconds": {phase: round(taken, 3) for phase, taken in seconds.items()},
        "peak_mib": round(max(peak.mib or 0, after.mib or 0), 1),
        "peak_of": peak.peak_of,
        **({"cuda_graph": learned.graph} if learned.graph else {}),
    }
    names = (CONFIG, CLASSIFIER, *([PREDICTIONS] if keep_predictions else []))
    texts = class_text_files(run.folder, config.options)
    written = [*learned_files(run, learned), *(run.folder / name for name in names), *texts]
    results = write_results(run.folder, results, written)
    remove_checkpoints(run.folder)
    return results
