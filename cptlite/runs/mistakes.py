"""What a classifier gets wrong: which classes are taken for which, and how sure it is of it.

Axes: C classes of a task.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cptlite.metrics import calibration_bins, calibration_error, confusion_matrix
from cptlite.runs.predictions import TaskPredictions

__all__ = ["describe_mistakes"]

MOST_PAIRS = 10


def describe_mistakes(predictions: TaskPredictions) -> dict[str, Any]:
    """Describe what a task's predictions get wrong.

    Returns
    -------
    dict
        In label order ``class_rows``, and ``taken_for``, the class that most of the others are predicted as, None where
        there are none; ``confused``, the pairs of classes with the most rows (``label``, ``predicted``, ``rows``, and
        ``share`` of the label's rows, in [0, 1]), the most first; ``ece`` in [0, 1], and its ``calibration``: by bin of
        confidence from ``low`` to ``high`` the ``rows`` and their mean ``confidence`` and ``accuracy``, None of a bin
        without rows.
    """
    names = predictions.task.class_names
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(names))  # (C, C)
    bins = calibration_bins(predictions.labels == predictions.predicted, predictions.probabilities)
    rows = counts.sum(axis=1)  # (C,)
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(place), len(names)) for place in order]
    return {
        "class_rows": rows.tolist(),
        "taken_for": [names[row.argmax()] if row.any() else None for row in wrong],
        "confused": [
            {
                "label": names[label],
                "predicted": names[predicted],
                "rows": int(wrong[label, predicted]),
                "share": float(wrong[label, predicted] / rows[label]),
            }
            for label, predicted in pairs
            if wrong[label, predicted]
        ],
        "ece": calibration_error(bins),
        "calibration": [
            {name: None if value != value else value for name, value in each._asdict().items()} for each in bins
        ],
    }
