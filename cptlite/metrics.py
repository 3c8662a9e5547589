"""How predictions are scored: per task, over a suite and over seeds.

Everything is a fraction in [0, 1]; percent only where it is printed.

Axes: N rows of a task's test split, C classes of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "CalibrationBin",
    "accuracy",
    "calibration_bins",
    "calibration_error",
    "confusion_matrix",
    "harmonic_mean",
    "mean_and_std",
    "mean_per_class_recall",
    "paired_interval",
    "recall_by_class",
    "suite_score",
]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the rows whose class is predicted (``acc1``).

    Parameters
    ----------
    labels, predictions : ndarray of shape (N,), int
        True and predicted class within the task.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        When the shapes differ or there are no rows.
    """
    labels, predictions = _checked(labels, predictions)
    return float(np.mean(labels == predictions))


def recall_by_class(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class's rows predicted right.

    Parameters
    ----------
    labels, predictions : ndarray of shape (N,), int
        True and predicted class within the task.
    num_classes : int
        C.

    Returns
    -------
    ndarray of shape (C,), float64
        In [0, 1]; NaN for a class without rows.

    Raises
    ------
    ValueError
        When the shapes differ or there are no rows.
    """
    labels, predictions = _checked(labels, predictions)
    rows = np.bincount(labels, minlength=num_classes)  # (C,)
    right = np.bincount(labels, weights=labels == predictions, minlength=num_classes)  # (C,)
    return np.divide(right, rows, out=np.full(num_classes, np.nan), where=rows > 0)


def mean_per_class_recall(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean, over the classes present in ``labels``, of the share of their rows predicted right.

    Parameters
    ----------
    labels, predictions : ndarray of shape (N,), int
        True and predicted class within the task.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        When the shapes differ or there are no rows.
    """
    recall = recall_by_class(labels, predictions, int(np.max(labels, initial=-1)) + 1)
    return float(np.mean(recall[~np.isnan(recall)]))


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the rows of each class by what they are predicted as.

    Parameters
    ----------
    labels, predictions : ndarray of shape (N,), int
        True and predicted class within the task.
    num_classes : int
        C.

    Returns
    -------
    ndarray of shape (C, C), int64
        By true class, then by predicted one.

    Raises
    ------
    ValueError
        When the shapes differ or there are no rows.
    """
    labels, predictions = _checked(labels, predictions)
    pairs = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class CalibrationBin(NamedTuple):
    """Rows whose confidence lies above ``low`` and up to ``high``: how many, and their means, NaN of none."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def calibration_bins(right: np.ndarray, confidence: np.ndarray, num_bins: int = 15) -> list[CalibrationBin]:
    """Compare how sure predictions are with how often they are right, in bins of equal width.

    Parameters
    ----------
    right : ndarray of shape (N,), bool
        Whether the predicted class is the true one.
    confidence : ndarray of shape (N,), float
        Probability of the predicted class, in [0, 1].
    num_bins : int

    Returns
    -------
    list of CalibrationBin

    Raises
    ------
    ValueError
        When the shapes differ or there are no rows.
    """
    right, confidence = _checked(right, confidence)
    edges = np.linspace(0, 1, num_bins + 1)
    places = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, num_bins - 1)  # (N,)
    bins = []
    for place, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        own = places == place
        means = (float(np.mean(values[own])) if own.any() else float("nan") for values in (confidence, right))
        bins.append(CalibrationBin(low, high, int(own.sum()), *means))
    return bins


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the expected calibration error (ECE) in [0, 1]: mean over rows of how far their bin is off.

    Notes
    -----
    Sum over bins of rows / N * abs(accuracy - confidence). Guo et al., "On Calibration of Modern Neural Networks" (ICML
    2017), with 15 bins there.
    """
    rows = sum(each.rows for each in bins)
    return sum(each.rows / rows * abs(each.accuracy - each.confidence) for each in bins if each.rows)


def suite_score(per_task: Sequence[float]) -> float:
    """Unweighted mean over a suite's tasks of the metric each of them reports.

    Parameters
    ----------
    per_task : sequence of float
        One value in [0, 1] per task; at least one.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        When there are no tasks.
    """
    return mean_and_std(per_task)[0]


def harmonic_mean(first: float, second: float) -> float:
    """Harmonic mean of two scores in [0, 1]; 0 where one of them is."""
    return 2 * first * second / (first + second) if first and second else 0.0


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor ``n - 1``) over seeds.

    Parameters
    ----------
    values : sequence of float
        At least one value.

    Returns
    -------
    mean, std : float
        ``std`` is 0.0 for a single value.

    Raises
    ------
    ValueError
        When there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("wanted at least one value to average, got none")
    std = float(np.std(array, ddof=1)) if array.size > 1 else 0.0
    return float(np.mean(array)), std


def paired_interval(ones: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and the 95 % confidence interval of that mean, by Student's t.

    Parameters
    ----------
    ones, others : sequence of float
        Values of one seed at one place; at least two.

    Returns
    -------
    mean, low, high : float
        Of ``ones - others``.

    Raises
    ------
    ValueError
        When they do not pair up, or are fewer than two.
    """
    from scipy.stats import t

    differences = np.asarray(ones, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    if len(ones) != len(others) or len(ones) < 2:
        raise ValueError(f"wanted at least two pairs, got {len(ones)} and {len(others)} values")
    mean, std = mean_and_std(differences.tolist())
    half = float(t.ppf(0.975, len(differences) - 1)) * std / len(differences) ** 0.5
    return mean, mean - half, mean + half


def _checked(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays after checking that they pair up."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            "wanted labels and predictions of the same shape (N,) with N at least 1, "
            f"got {labels.shape} and {predictions.shape}"
        )
    return labels, predictions
