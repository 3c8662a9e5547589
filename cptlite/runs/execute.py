"""Runs from cache files to finished run directories.

Axes: R runs trained together, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cptlite.backbones.clip import Backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.config import OWN_ROWS, RunConfig, differ_in_rows_alone
from cptlite.environment import PeakMemory, describe_environment, measure_peak
from cptlite.errors import UsageError
from cptlite.methods.base import Learned, Problem
from cptlite.metrics import suite_score
from cptlite.runs.evaluate import evaluate
from cptlite.runs.files import finished_results, remove_checkpoints, run_folder, write_classifier, write_json
from cptlite.runs.learn import OnEpoch, Run, learn_runs
from cptlite.runs.rows import draw_rows
from cptlite.text.encoder import TextEncoder

__all__ = ["execute_runs", "learn_in_memory"]


def execute_runs(
    configs: Sequence[RunConfig],
    backbone: Backbone,
    *,
    cache_dir: Path,
    out: Path,
    force: bool = False,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, Any]]:
    """Train, evaluate and file runs that differ in shots and seed alone, as an axis of one forward.

    Parameters
    ----------
    configs : sequence of RunConfig
        Those of a method that cannot share a forward are trained one after the other.
    backbone : Backbone
        The one named in the configurations.
    cache_dir, out : Path
        Where cache files lie, and where runs go.
    force : bool
        Replace what is in the runs' folders.
    on_epoch : callable, optional
        Told the number of epochs that all runs together have done (of tasks learned separately, their mean) and the
        last epoch's mean loss.

    Returns
    -------
    list of dict
        What each ``results.json`` holds: names, per-task metrics, ``suite_score`` in [0, 1], ``parameters``,
        ``choices`` (numbers chosen on validation rows, by task), ``seconds`` by phase (of a training together, the
        run's share), ``peak_mib`` (of the runs trained together, or evaluating this one, whichever is more) and
        ``peak_of`` (``run``, or ``process`` where the system counts from its start).

    Raises
    ------
    UsageError
        Unknown method, more shots than there are, configurations that differ in more, or a folder holds another
        configuration.
    DataError
        A cache is missing, or of other weights than the backbone's.
    """
    if not differ_in_rows_alone(configs):
        raise UsageError(f"runs trained together may differ in {' and '.join(OWN_ROWS)} alone: train them one by one")
    with ExitStack() as stack:
        caches = [stack.enter_context(cache) for cache in open_caches(cache_dir, backbone, configs[0].datasets)]
        folders = [run_folder(out, config) for config in configs]
        if force:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        pairs = list(zip(configs, folders, strict=True))
        results = {folder: finished_results(folder, _identity(config, caches)) for config, folder in pairs}
        pending = [(config, folder) for config, folder in pairs if results[folder] is None]
        for group in [pending] if configs[0].entry.stepped else [[pair] for pair in pending]:
            results |= _execute(group, backbone, caches, on_epoch)
        return [found for folder in folders if (found := results[folder]) is not None]


def _execute(
    pending: Sequence[tuple[RunConfig, Path]],
    backbone: Backbone,
    caches: Sequence[FeatureCache],
    on_epoch: OnEpoch | None,
) -> dict[Path, dict[str, Any]]:
    """Carry out runs together; the results by folder."""
    if not pending:
        return {}
    begun = [_begin(config, folder, backbone, caches) for config, folder in pending]
    problem = new_problem(pending[0][0], backbone, caches)
    with measure_peak(backbone.device) as peak:
        learned = learn_runs(problem, [run for run, _ in begun], on_epoch)
    return {
        folder: _finish(run, problem, done, backbone, caches, seconds, peak)
        for (_, folder), (run, seconds), done in zip(pending, begun, learned, strict=True)
    }


def learn_in_memory(
    config: RunConfig, backbone: Backbone, caches: Sequence[FeatureCache], on_epoch: OnEpoch | None = None
) -> Learned:
    """Learn one run as `execute_runs` does, without a folder and without a look at test rows."""
    train, val = draw_rows(config, caches, backbone)
    run = Run(config=config, train=train, val=val)
    return learn_runs(new_problem(config, backbone, caches), [run], on_epoch)[0]


def new_problem(config: RunConfig, backbone: Backbone, caches: Sequence[FeatureCache]) -> Problem:
    """All tasks of the caches, with the text encoder as configured."""
    text = TextEncoder(backbone.text_tower, backbone.tokenizer, config.text_path, memory=config.text_memory)
    return Problem(tasks=tuple(task for cache in caches for task in cache.tasks), text=text)


def _identity(config: RunConfig, caches: Sequence[FeatureCache]) -> dict[str, Any]:
    """Say what a run's folder must have been made from to be gone on with."""
    return {
        "config": config.to_json(),
        "caches": {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches},
    }


def _begin(
    config: RunConfig, folder: Path, backbone: Backbone, caches: Sequence[FeatureCache]
) -> tuple[Run, dict[str, float]]:
    """Draw rows and write ``config.json``; what is refused leaves no folder behind. The seconds go with the run."""
    started = time.monotonic()
    train, val = draw_rows(config, caches, backbone)
    folder.mkdir(parents=True, exist_ok=True)
    environment = describe_environment(backbone.device)
    write_json(folder / "config.json", {**_identity(config, caches), "environment": environment})
    run = Run(config=config, train=train, val=val, folder=folder)
    return run, {"load": round(time.monotonic() - started, 3)}


def _finish(
    run: Run,
    problem: Problem,
    learned: Learned,
    backbone: Backbone,
    caches: Sequence[FeatureCache],
    seconds: dict[str, float],
    peak: PeakMemory,
) -> dict[str, Any]:
    """Evaluate and write the classifier and, last, the results."""
    assert run.folder is not None
    config, started = run.config, time.monotonic()
    with measure_peak(backbone.device) as after:
        tasks = evaluate(learned.classifier, caches, backbone.device, local=config.entry.needs_local)
    seconds = {**seconds, "train": round(learned.seconds, 3), "evaluate": round(time.monotonic() - started, 3)}
    write_classifier(run.folder, problem, learned.classifier, backbone)
    results = {
        **{key: getattr(config, key) for key in ("method", "suite", "backbone", "shots", "seed", "variant")},
        "recipe": config.recipe_name,
        "tasks": tasks,
        "suite_score": suite_score([scores[scores["metric"]] for scores in tasks.values()]),
        "parameters": learned.num_parameters,
        "choices": learned.choices,
        "seconds": seconds,
        "peak_mib": round(max(peak.mib or 0, after.mib or 0), 1),
        "peak_of": peak.peak_of,
        **({"cuda_graph": learned.graph} if learned.graph else {}),
    }
    write_json(run.folder / "results.json", results)
    remove_checkpoints(run.folder)
    return results
