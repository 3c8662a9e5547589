"""The one place that reads test rows: a finished classifier on every task, once.

Axes: N test rows, B rows of a chunk, K classes of all tasks in task-major order, C of a task, M patches of an image, D
joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.classifiers import Classifier
from cptlite.errors import DataError
from cptlite.metrics import accuracy, mean_per_class_recall
from cptlite.runs.guards import check_features, check_scores, sound_features, sound_scores

__all__ = ["check_test_rows", "evaluate"]

CHUNK = 4096
PATCH_CHUNK = 256  # rows of up to 1 MiB each


def check_test_rows(caches: Sequence[FeatureCache]) -> None:
    """Find out what `evaluate` would fail on before anything is trained: labels alone are read, and nothing is kept.

    Raises
    ------
    DataError
        A test row is of no class or task that there is, or a task has no test rows.
    """
    for cache in caches:
        tasks = cache.row_tasks("test")
        check_classes(cache, "test", cache.labels("test"), tasks)
        there = set(tasks.tolist())
        empty = [repr(task.id) for index, task in enumerate(cache.tasks) if index not in there]
        if empty:
            which = f" of {', '.join(empty)}" if there else ""
            raise DataError(f"{cache.path} has no test rows{which}: leave it out with --dataset, or cache it anew")


@torch.no_grad()
def evaluate(
    classifier: Classifier, caches: Sequence[FeatureCache], device: torch.device, *, patches: bool = False
) -> dict[str, dict[str, Any]]:
    """Score a classifier on the test rows of every task.

    Parameters
    ----------
    classifier : Classifier
        Over the classes of all caches' tasks, in order.
    caches : sequence of FeatureCache
    device : torch.device
        Of the classifier.
    patches : bool
        Give the classifier patch features (B, M, D), read as they are scored, instead of pooled ones (B, D).

    Returns
    -------
    dict of str to dict
        By task id: ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts) and ``rows``.

    Raises
    ------
    CptliteError
        Features or scores of a row are not finite.
    """
    results: dict[str, dict[str, Any]] = {}
    first = 0
    for cache in caches:
        labels, tasks = cache.labels("test"), cache.row_tasks("test")
        for index, task in enumerate(cache.tasks):
            rows = np.flatnonzero(tasks == index)
            classes = slice(first, first + len(task.class_names))
            predicted = _predict(classifier, cache, rows, classes, device, patches)
            results[task.id] = {
                "acc1": accuracy(labels[rows], predicted),
                "mean_per_class_recall": mean_per_class_recall(labels[rows], predicted),
                "metric": task.metric,
                "rows": len(rows),
            }
            first = classes.stop
    return results


def _chunks(cache: FeatureCache, rows: np.ndarray, patches: bool) -> Iterator[np.ndarray]:
    """Test features (n, D), or of patches (n, M, D), chunk by chunk: of a big dataset these do not fit into memory."""
    size = PATCH_CHUNK if patches else CHUNK
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield cache.patches("test", part) if patches else cache.features("test", part, views=0)[:, 0]


def _predict(
    classifier: Classifier, cache: FeatureCache, rows: np.ndarray, classes: slice, device: torch.device, patches: bool
) -> np.ndarray:
    """Best class within one task for each row: (N,)."""
    best, sound, ranked = [torch.zeros(0, dtype=torch.int64, device=device)], [], []
    for chunk in _chunks(cache, rows, patches):
        features = torch.from_numpy(chunk).to(device)  # (B, D) or (B, M, D)
        scores = classifier.scores(features, classes)  # (B, C)
        best.append(scores.argmax(dim=-1))
        sound.append(sound_features(features))
        ranked.append(sound_scores(scores))
    if len(rows):
        check_features(cache, "test", rows, torch.cat(sound))
        check_scores(cache, rows, torch.cat(ranked))
    return torch.cat(best).cpu().numpy()
