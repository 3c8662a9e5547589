"""A finished run on other cached datasets with the same classes; what comes out lies in ``eval/`` of its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cptlite.cache import FeatureCache
from cptlite.classifiers import StoredClassifier
from cptlite.config import RunConfig, choose_suite
from cptlite.datasets import load_catalog
from cptlite.files import write_alone
from cptlite.runs.evaluate import check_test_rows, evaluate
from cptlite.runs.load import FinishedRun
from cptlite.runs.predictions import suite_scores
from cptlite.runs.seen import seen_sizes

__all__ = ["EVAL", "evaluate_run", "score_caches"]

EVAL = "eval"
FACTS = ("method", "suite", "backbone", "shots", "seed", "variant", "recipe", "config")


def score_caches(
    stored: StoredClassifier, config: RunConfig, caches: Sequence[FeatureCache], device: torch.device
) -> dict[str, dict[str, Any]]:
    """Score a classifier, learned by a configuration, on the test rows of some caches.

    Parameters
    ----------
    stored : StoredClassifier
    config : RunConfig
    caches : sequence of FeatureCache
        Their tasks have the classes of the classifier's, all or some, in any order.
    device : torch.device
        Of the classifier.

    Returns
    -------
    dict of str to dict
        By task id, as of `TaskPredictions.scores`.

    Raises
    ------
    UsageError
        A task has classes that were not learned, or those of several tasks.
    DataError
        Features of other weights, or a task without test rows.
    """
    for cache in caches:
        cache.check({"weights_sha256": stored.backbone.weights_sha256})
    check_test_rows(caches)
    predictions = evaluate(
        stored.classifier,
        caches,
        device,
        patches=config.entry.needs_patches,
        fitted=stored.tasks,
        sizes=seen_sizes(config, stored.tasks),
    )
    return {each.task.id: each.scores() for each in predictions}


def evaluate_run(
    run: FinishedRun, folder: Path, caches: Sequence[FeatureCache], device: torch.device
) -> tuple[dict[str, Any], Path]:
    """Score a run on the test rows of some caches and write that beside the run, none of whose own files is touched.

    Parameters
    ----------
    run : FinishedRun
    folder : Path
        The run's.
    caches : sequence of FeatureCache
        Their tasks have the classes of the run's, all or some, in any order.
    device : torch.device
        Of the run's classifier.

    Returns
    -------
    results : dict
        What the run's own results say of it, ``run_sha256`` (the digest of these), ``evaluated`` (fingerprints of the
        caches, by dataset), ``tasks`` and the scores of `suite_scores`, ``seconds``.
    path : Path
        The file that holds them, ``eval/on-<datasets>.json``; the same datasets replace it.

    Raises
    ------
    UsageError
        A task has classes that the run did not have, or those of several of its tasks.
    DataError
        Features of other weights, or a task without test rows.
    """
    started = time.monotonic()
    tasks = score_caches(run.stored, run.config, caches, device)
    results = {
        **{name: run.results[name] for name in FACTS if name in run.results},
        "run_sha256": run.results.get("sha256"),
        "evaluated": {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches},
        "tasks": tasks,
        **suite_scores(tasks),
        "parameters": run.results["parameters"],
        "seconds": {"evaluate": round(time.monotonic() - started, 3)},
    }
    # Never results.json, whatever a dataset is called: that is what a run is known by.
    path = folder / EVAL / f"on-{choose_suite([cache.path.stem for cache in caches], load_catalog())}.json"
    write_alone(path, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    return results, path
