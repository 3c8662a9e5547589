"""The one place that reads test rows: a finished classifier on every task, once.

Axes: N test rows of a task, B rows of a chunk, K classes of all tasks in task-major order, C of a task, M patches of an
image, D joint dimension.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.classifiers import Classifier
from cptlite.datasets.checks import Labelled, short_classes
from cptlite.datasets.types import Task
from cptlite.errors import DataError
from cptlite.metrics import accuracy, mean_per_class_recall, recall_by_class
from cptlite.runs.guards import check_features, check_scores, sound_features, sound_scores
from cptlite.runs.matching import Place, match_tasks

__all__ = ["TaskPredictions", "check_test_rows", "evaluate", "pack_predictions", "untested_classes"]

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


def untested_classes(caches: Sequence[FeatureCache]) -> dict[str, list[str]]:
    """Name the classes without test rows: a sentence for each dataset that has any, by its name."""
    found = {}
    for cache in caches:
        rows = Labelled(cache.labels("test"), cache.row_tasks("test"))
        check_classes(cache, "test", *rows)
        found[cache.fingerprint.dataset] = short_classes(cache.tasks, {"test": rows})
    return found


@dataclass(frozen=True, kw_only=True)
class TaskPredictions:
    """What a classifier says of a task's test rows.

    Attributes
    ----------
    task : Task
    images : tuple of str
        N paths, relative to the dataset's image folder.
    labels, predicted : ndarray of shape (N,), int
        True and best class within the task.
    ranks : ndarray of shape (N,), int
        Place of the true class in the order of scores; 1 where it is predicted.
    probabilities : ndarray of shape (N,), float
        Of the predicted class: softmax of the task's scores.
    """

    task: Task
    images: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray
    probabilities: np.ndarray

    def scores(self) -> dict[str, Any]:
        """Metrics of the task.

        Returns
        -------
        dict
            ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts), ``rows``, and by class
            in label order ``classes`` (names) and ``recall`` in [0, 1], None of a class without test rows.
        """
        recall = recall_by_class(self.labels, self.predicted, len(self.task.class_names))
        return {
            "acc1": accuracy(self.labels, self.predicted),
            "mean_per_class_recall": mean_per_class_recall(self.labels, self.predicted),
            "metric": self.task.metric,
            "rows": len(self.labels),
            "classes": list(self.task.class_names),
            "recall": [None if math.isnan(value) else value for value in recall.tolist()],
        }


@torch.no_grad()
def evaluate(
    classifier: Classifier,
    caches: Sequence[FeatureCache],
    device: torch.device,
    *,
    patches: bool = False,
    fitted: Sequence[Task] | None = None,
) -> list[TaskPredictions]:
    """Predict the class of every test row of every task.

    Parameters
    ----------
    classifier : Classifier
    caches : sequence of FeatureCache
    device : torch.device
        Of the classifier.
    patches : bool
        Give the classifier patch features (B, M, D), read as they are scored, instead of pooled ones (B, D).
    fitted : sequence of Task, optional
        Whose classes the classifier scores; by default those of the caches, in order. Those of the caches are found
        among them by `match_tasks`, and a row is scored over the classes of its own task.

    Returns
    -------
    list of TaskPredictions
        In the order of the caches' tasks.

    Raises
    ------
    CptliteError
        Features or scores of a row are not finite.
    UsageError
        A task has other classes than those fitted.
    """
    tasks = [task for cache in caches for task in cache.tasks]
    places = iter(match_tasks(tasks if fitted is None else fitted, tasks))
    return [
        _predict(classifier, cache, index, next(places), device, patches)
        for cache in caches
        for index in range(len(cache.tasks))
    ]


def pack_predictions(predictions: Sequence[TaskPredictions]) -> bytes:
    """Write predictions as CSV: task, image, its label, the class predicted with its probability, the label's rank."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "image", "label", "predicted", "probability", "rank"))
    for each in predictions:
        names = each.task.class_names
        columns = (each.labels.tolist(), each.predicted.tolist(), each.probabilities.tolist(), each.ranks.tolist())
        for image, label, predicted, probability, rank in zip(each.images, *columns, strict=True):
            writer.writerow((each.task.id, image, names[label], names[predicted], f"{probability:.4f}", rank))
    return text.getvalue().encode()


def _predict(
    classifier: Classifier, cache: FeatureCache, index: int, place: Place, device: torch.device, patches: bool
) -> TaskPredictions:
    """Predict the test rows of one task of a cache."""
    rows = np.flatnonzero(cache.row_tasks("test") == index)
    labels, paths = cache.labels("test")[rows], cache.paths("test")
    empty = torch.zeros(0, device=device)
    best, ranks, likely, sound, ranked = [empty.long()], [empty.long()], [empty], [], []
    for chunk, part in _chunks(cache, rows, labels, patches):
        features = torch.from_numpy(chunk).to(device)  # (B, D) or (B, M, D)
        scores = classifier.scores(features, place.classes)
        if place.columns is not None:
            scores = scores[:, list(place.columns)]
        best.append(scores.argmax(dim=-1))  # of scores (B, C)
        ranks.append(_ranks(scores, torch.from_numpy(part).to(device).long()))
        likely.append(scores.float().softmax(dim=-1).gather(1, best[-1][:, None])[:, 0])
        sound.append(sound_features(features))
        ranked.append(sound_scores(scores))
    if len(rows):
        check_features(cache, "test", rows, torch.cat(sound))
        check_scores(cache, rows, torch.cat(ranked))
    return TaskPredictions(
        task=cache.tasks[index],
        images=tuple(paths[row] for row in rows),
        labels=labels,
        predicted=torch.cat(best).cpu().numpy(),
        ranks=torch.cat(ranks).cpu().numpy(),
        probabilities=torch.cat(likely).cpu().numpy(),
    )


def _chunks(
    cache: FeatureCache, rows: np.ndarray, labels: np.ndarray, patches: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read test features (B, D), or of patches (B, M, D), with labels (B,): those of a big dataset fill the memory."""
    size = PATCH_CHUNK if patches else CHUNK
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        features = cache.patches("test", part) if patches else cache.features("test", part, views=0)[:, 0]
        yield features, labels[start : start + size]


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Place of each row's class (B,) in the order of its scores (B, C), of equal ones the first before: (B,)."""
    own = scores.gather(1, labels[:, None])  # (B, 1)
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]  # (B, C)
    return 1 + ((scores > own) | ((scores == own) & before)).sum(dim=-1)
