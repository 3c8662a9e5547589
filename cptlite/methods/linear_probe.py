"""CLIP's linear probe: logistic regression on raw image features, its C chosen on few-shot validation rows.

Radford et al. (ICML 2021), appendix A.3, in the few-shot form of CoOp and SoftCPT.

Axes: N rows, V views, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows, LinearClassifier, Method, Problem

__all__ = ["LinearProbe", "search_c"]

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
STEPS = 8


def search_c(score: Callable[[float], float]) -> float:
    """Choose the inverse regularisation C of a probe.

    The best of seven coarse values (the first of equals), then eight bisections of log C around it, starting from one
    decade to each side and keeping the better half (the upper one only when strictly better).

    Parameters
    ----------
    score : callable
        Validation accuracy of a probe with this C.

    Returns
    -------
    float
    """
    centre = math.log10(max(COARSE, key=score))
    low, high = centre - 1, centre + 1
    chosen = centre
    for _ in range(STEPS):
        middle = (low + high) / 2
        if score(10**low) < score(10**high):
            low, chosen = middle, high
        else:
            high, chosen = middle, low
    return 10**chosen


class LinearProbe(Method):
    """One logistic regression a task, on view 0 of the raw cached features; its choice is ``C``."""

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows) -> LinearClassifier:
        """Fit every task's probe, its C chosen on validation rows.

        Raises
        ------
        DataError
            A task has no validation rows, or training rows of fewer than two classes.
        """
        num_classes, dim = len(problem.class_names), train.features.shape[-1]
        weights, bias = np.zeros((num_classes, dim)), np.full(num_classes, -np.inf)
        of_class = problem.class_tasks.cpu().numpy()
        x, y = _plain_rows(train)
        x_val, y_val = _plain_rows(val)
        for index, task in enumerate(problem.tasks):
            here, here_val = of_class[y] == index, of_class[y_val] == index
            if not here_val.any():
                raise DataError(
                    f"linear-probe chooses its C on validation rows, and task {task.id!r} has none cached: "
                    f"give the dataset a val split, or use --method prototype"
                )
            if len(np.unique(y[here])) < 2:
                raise DataError(
                    f"linear-probe wants training rows of at least two classes of task {task.id!r}, found those of "
                    f"{len(np.unique(y[here]))}: cache more, or use --method prototype"
                )
            probe, c = _best_probe(x[here], y[here], x_val[here_val], y_val[here_val])
            self.choices_[task.id] = {"C": c}
            coefficients, intercepts = _per_class(probe)
            weights[probe.classes_], bias[probe.classes_] = coefficients, intercepts
        self._size = weights.size + bias.size
        device = train.features.device
        return LinearClassifier(
            weights=torch.from_numpy(weights).float().to(device),
            bias=torch.from_numpy(bias).float().to(device),
            logit_scale=0.0,
            unit_length=False,
        )


def _plain_rows(rows: FewShotRows) -> tuple[np.ndarray, np.ndarray]:
    return rows.features[:, 0].float().cpu().numpy(), rows.labels.cpu().numpy()


def _best_probe(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray) -> tuple[LogisticRegression, float]:
    @cache
    def fitted(c: float) -> LogisticRegression:
        with warnings.catch_warnings():
            # The protocol stops at 1000 iterations; with the largest C it does not converge by then.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=c, max_iter=1000).fit(x, y)

    c = search_c(lambda c: float(fitted(c).score(x_val, y_val)))
    return fitted(c), c


def _per_class(probe: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """One row a class; scikit-learn keeps a single row for two classes."""
    if len(probe.classes_) > 2:
        return probe.coef_, probe.intercept_
    zero = np.zeros_like(probe.coef_)
    return np.concatenate([zero, probe.coef_]), np.concatenate([[0.0], probe.intercept_])
