"""How predictions are scored: per task, over a suite and over seeds.

Everything is a fraction in [0, 1]; percent only where it is printed.

Axes: N rows of a task's test split, C classes of the task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "accuracy",
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
