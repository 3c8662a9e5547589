"""The one place that reads test rows: a finished classifier on every task, once.

Axes: N test rows, K classes of all tasks in task-major order, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.cache import FeatureCache
from cptlite.methods.base import Classifier
from cptlite.metrics import accuracy, mean_per_class_recall

__all__ = ["evaluate"]

CHUNK = 4096


@torch.no_grad()
def evaluate(classifier: Classifier, caches: Sequence[FeatureCache], device: torch.device) -> dict[str, dict[str, Any]]:
    """Score a classifier on the test rows of every task.

    Parameters
    ----------
    classifier : Classifier
        Over the classes of all caches' tasks, in order.
    caches : sequence of FeatureCache
    device : torch.device
        Of the classifier.

    Returns
    -------
    dict of str to dict
        By task id: ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts) and ``rows``.
    """
    results: dict[str, dict[str, Any]] = {}
    first = 0
    for cache in caches:
        labels, tasks = cache.labels("test"), cache.row_tasks("test")
        for index, task in enumerate(cache.tasks):
            rows = np.flatnonzero(tasks == index)
            features = torch.from_numpy(cache.features("test", rows=rows)[:, 0]).to(device)
            classes = slice(first, first + len(task.class_names))
            predicted = _predict(classifier, features, classes)
            results[task.id] = {
                "acc1": accuracy(labels[rows], predicted),
                "mean_per_class_recall": mean_per_class_recall(labels[rows], predicted),
                "metric": task.metric,
                "rows": len(rows),
            }
            first = classes.stop
    return results


def _predict(classifier: Classifier, features: Tensor, classes: slice) -> np.ndarray:
    """Best class within one task for each row, (N, D) to (N,)."""
    best = [classifier.scores(chunk, classes).argmax(dim=-1) for chunk in features.split(CHUNK)]
    return torch.cat(best).cpu().numpy()
