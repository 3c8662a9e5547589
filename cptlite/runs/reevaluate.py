"""A finished run on other cached datasets with the same classes; what comes out lies in ``eval/`` of its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cptlite.cache import FeatureCache
from cptlite.cache.layers import before_projection
from cptlite.classifiers import StoredClassifier
from cptlite.config import RunConfig
from cptlite.datasets import load_catalog
from cptlite.datasets.suites import choose_suite
from cptlite.datasets.text_files import shown
from cptlite.errors import UsageError
from cptlite.files import write_alone
from cptlite.metrics import suite_score
from cptlite.runs.evaluate import Refine, check_test_rows, evaluate
from cptlite.runs.load import FinishedRun
from cptlite.runs.mistakes import describe_mistakes
from cptlite.runs.predictions import TaskPredictions, suite_scores
from cptlite.runs.seen import seen_sizes
from cptlite.runs.transductive import HOW, Transduction

__all__ = ["Evaluation", "check_outside", "evaluate_run", "predict_caches"]

EVAL = "eval"
FACTS = ("method", "suite", "backbone", "shots", "seed", "variant", "recipe", "config")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A run on the rows of some caches.

    Attributes
    ----------
    results : dict
        What the run's own results say of it, ``run_sha256`` (the digest of these), ``split``, ``evaluated``
        (fingerprints of the caches, by dataset), ``tasks`` and the scores of `suite_scores`, ``mistakes`` by task (as
        of `describe_mistakes`), ``ece`` (the mean of the tasks'), ``seconds``; and where test rows were predicted
        together ``transductive``: by what, what that sees, and what was chosen for each task.
    path : Path
        The file that holds them.
    predictions : list of TaskPredictions
    """

    results: dict[str, Any]
    path: Path
    predictions: list[TaskPredictions]


def check_outside(folder: Path, path: Path | None) -> None:
    """Refuse to write among a run's own files, which its results have the digests of.

    Raises
    ------
    UsageError
        The path lies in the run's folder, and not in its ``eval``.
    """
    own = folder.resolve()
    if path is None or own not in path.resolve().parents or path.resolve().relative_to(own).parts[0] == EVAL:
        return
    raise UsageError(
        f"wanted a path that is not among the run's own files, got {shown(path)}: give one in {shown(folder / EVAL)}, "
        f"or in another folder"
    )


def predict_caches(
    stored: StoredClassifier,
    config: RunConfig,
    caches: Sequence[FeatureCache],
    device: torch.device,
    split: str = "test",
    refine: Refine | None = None,
) -> list[TaskPredictions]:
    """Predict the rows of some caches by a classifier that was learned by a configuration.

    Parameters
    ----------
    stored : StoredClassifier
    config : RunConfig
    caches : sequence of FeatureCache
        Their tasks have the classes of the classifier's, all or some, in any order.
    device : torch.device
        Of the classifier.
    split : str
    refine : callable, optional
        As of `cptlite.runs.evaluate.evaluate`.

    Returns
    -------
    list of TaskPredictions

    Raises
    ------
    UsageError
        A task has classes that were not learned, or those of several tasks.
    DataError
        Features of other weights, or a task without such rows.
    """
    for cache in caches:
        cache.check({"weights_sha256": stored.backbone.weights_sha256})
    check_test_rows(caches, split=split)
    return evaluate(
        stored.classifier,
        before_projection(caches, config.entry.needs_pre_projection),
        device,
        patches=config.entry.needs_patches,
        fitted=stored.tasks,
        sizes=seen_sizes(config, stored.tasks),
        split=split,
        refine=refine,
    )


def evaluate_run(
    run: FinishedRun,
    caches: Sequence[FeatureCache],
    device: torch.device,
    split: str = "test",
    transduction: Transduction | None = None,
) -> Evaluation:
    """Score a run on the rows of some caches and write that beside the run, none of whose own files is touched.

    It is written to ``eval/on-<datasets>.json``, or ``eval/val-on-<datasets>.json``, which the same datasets replace.
    With a ``transduction`` test rows of a task are predicted together, and what comes out stands apart, in
    ``eval/transductive-on-<datasets>.json``. Arguments and errors are those of `predict_caches`; another split than
    ``val`` and ``test``, or with a transduction than ``test``, is a UsageError.
    """
    if split not in ("val", "test"):
        raise UsageError(f"unknown split {split!r}: give val or test")
    if transduction and split != "test":
        raise UsageError("--transductive chooses on the labels of val rows, got --split val: leave one of the two out")
    started = time.monotonic()
    predictions = predict_caches(run.stored, run.config, caches, device, split, transduction)
    tasks = {each.task.id: each.scores() for each in predictions}
    mistakes = {each.task.id: describe_mistakes(each) for each in predictions}
    chosen = {each.task.id: dict(each.transductive or {}) for each in predictions}
    results = {
        **{name: run.results[name] for name in FACTS if name in run.results},
        "run_sha256": run.results.get("sha256"),
        "split": split,
        **({"transductive": {**HOW, "tasks": chosen}} if transduction else {}),
        "evaluated": {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches},
        "tasks": tasks,
        **suite_scores(tasks),
        "mistakes": mistakes,
        "ece": suite_score([each["ece"] for each in mistakes.values()]),
        "parameters": run.results["parameters"],
        "seconds": {"evaluate": round(time.monotonic() - started, 3)},
    }
    # Never results.json, whatever a dataset is called: that is what a run is known by.
    name = choose_suite([cache.path.stem for cache in caches], load_catalog())
    kind = "transductive-" if transduction else "val-" if split == "val" else ""
    path = run.folder / EVAL / f"{kind}on-{name}.json"
    write_alone(path, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    return Evaluation(results=results, path=path, predictions=predictions)
