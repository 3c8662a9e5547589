"""What a classifier says of test rows, and how good that is: by task, and over a suite.

Axes: N test rows of a task, C classes of a task.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cptlite.datasets.types import Task
from cptlite.metrics import accuracy, harmonic_mean, mean_per_class_recall, recall_by_class, suite_score

__all__ = ["PredictedRow", "TaskPredictions", "pack_predictions", "suite_scores", "unpack_predictions"]

COLUMNS = ("task", "image", "label", "predicted", "probability", "rank")
MOST_CLASSES = 2**31  # of a rank in a file


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
    held_out : bool
        Whether nothing was learned from the task.
    base : ndarray of shape (C,), bool, optional
        Which classes were learned from, where that is not all or none of them; the others are new.
    of_half : ndarray of shape (N,), int, optional
        Best class among the base ones for a row of a base class, among the new ones for a row of a new one; with
        ``base``.
    transductive : mapping of str to float, optional
        Where the rows were predicted together: how.
    """

    task: Task
    images: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray
    probabilities: np.ndarray
    held_out: bool = False
    base: np.ndarray | None = None
    of_half: np.ndarray | None = None
    transductive: Mapping[str, float] | None = None

    def scores(self) -> dict[str, Any]:
        """Metrics of the task.

        Returns
        -------
        dict
            ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts), ``rows``, and by class
            in label order ``classes`` (names) and ``recall`` in [0, 1], None of a class without test rows. These are
            over all classes of the task. Of a task that was held out, ``held_out``. Where some classes are new,
            ``base``, ``new`` and their ``harmonic`` mean, in that metric: rows of base classes scored over the base
            classes, rows of new ones over the new ones, as CoOp does; ``generalised`` has the same three with both
            scored over all classes. None where there are no such rows.
        """
        recall = recall_by_class(self.labels, self.predicted, len(self.task.class_names))
        return {
            "acc1": accuracy(self.labels, self.predicted),
            "mean_per_class_recall": mean_per_class_recall(self.labels, self.predicted),
            "metric": self.task.metric,
            "rows": len(self.labels),
            "classes": list(self.task.class_names),
            "recall": [None if math.isnan(value) else value for value in recall.tolist()],
            **({"held_out": True} if self.held_out else {}),
            **self._base_to_new(),
        }

    def _base_to_new(self) -> dict[str, Any]:
        if self.base is None or self.of_half is None:
            return {}
        of_base = self.base[self.labels]  # (N,)
        return {**self._by_half(of_base, self.of_half), "generalised": self._by_half(of_base, self.predicted)}

    def _by_half(self, of_base: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
        metric = {"acc1": accuracy, "mean_per_class_recall": mean_per_class_recall}[self.task.metric]
        base, new = (metric(self.labels[rows], predicted[rows]) if rows.any() else None for rows in (of_base, ~of_base))
        return {"base": base, "new": new, "harmonic": _harmonic(base, new)}


def suite_scores(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put the scores of a run's tasks together.

    Parameters
    ----------
    tasks : mapping of str to mapping
        By task, as of `TaskPredictions.scores`.

    Returns
    -------
    dict
        ``suite_score`` in [0, 1]: the mean over tasks of the metric that counts. Where some tasks were held out, that
        of these, and ``seen_score`` that of the others. Where some classes are new, ``base`` and ``new``, the means
        over tasks, their ``harmonic`` mean, which is the suite score too, and ``generalised`` with the same three.

    Notes
    -----
    The harmonic mean is taken of the two means, not averaged over tasks: so do CoCoOp (CVPR 2022, Table 1: 80.47 and
    71.69 give 75.83, where the mean of its eleven harmonic means is 75.44) and those who follow it.
    """
    counted = {id: scores[scores["metric"]] for id, scores in tasks.items()}
    held_out = [score for id, score in counted.items() if tasks[id].get("held_out")]
    if held_out:
        seen = [score for id, score in counted.items() if not tasks[id].get("held_out")]
        return {"suite_score": suite_score(held_out), "seen_score": suite_score(seen) if seen else None}
    halved = [scores for scores in tasks.values() if "harmonic" in scores]
    if not halved:
        return {"suite_score": suite_score(list(counted.values()))}
    found = _mean_halves(halved)
    generalised = _mean_halves([scores["generalised"] for scores in halved])
    return {"suite_score": found["harmonic"], **found, "generalised": generalised}


def _mean_halves(scores: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    values = [[each[half] for each in scores if each[half] is not None] for half in ("base", "new")]
    base, new = (suite_score(each) if each else None for each in values)
    return {"base": base, "new": new, "harmonic": _harmonic(base, new)}


def _harmonic(base: float | None, new: float | None) -> float | None:
    return None if base is None or new is None else harmonic_mean(base, new)


def pack_predictions(predictions: Sequence[TaskPredictions]) -> bytes:
    """Write predictions as CSV: task, image, its label, the class predicted with its probability, the label's rank.

    Where some classes are new, ``of_half`` is the class predicted among the base or the new ones, as the label is.
    """
    halved = any(each.of_half is not None for each in predictions)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *(["of_half"] * halved)))
    for each in predictions:
        names = each.task.class_names
        columns = (each.labels.tolist(), each.predicted.tolist(), each.probabilities.tolist(), each.ranks.tolist())
        of_half = [()] * len(each.images) if each.of_half is None else [(names[best],) for best in each.of_half]
        for image, label, predicted, probability, rank, half in zip(each.images, *columns, of_half, strict=True):
            writer.writerow((each.task.id, image, names[label], names[predicted], f"{probability:.4f}", rank, *half))
    return text.getvalue().encode()


class PredictedRow(NamedTuple):
    """A row of ``predictions.csv``; fields as in `TaskPredictions`, of one image, with classes by name."""

    task: str
    image: str
    label: str
    predicted: str
    probability: float
    rank: int

    @property
    def own_at_most(self) -> float:
        """Most that the probability of the label can be: of the rest, those that rank before it have as much each."""
        return self.probability if self.rank == 1 else min(self.probability, (1 - self.probability) / (self.rank - 1))


def unpack_predictions(content: bytes) -> list[PredictedRow]:
    """Read predictions as `pack_predictions` writes them; an error of any kind says that they are damaged."""
    rows = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
    found = []
    for row in rows:
        task, image, label, predicted, probability, rank = (row[name] for name in COLUMNS)
        each = PredictedRow(task, image, label, predicted, float(probability), int(rank))
        if not (0 <= each.probability <= 1 and 1 <= each.rank <= MOST_CLASSES):
            raise ValueError(f"no probability and rank: {probability}, {rank}")
        found.append(each)
    return found
