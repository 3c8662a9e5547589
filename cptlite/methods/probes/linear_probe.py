"""CLIP's linear probe: logistic regression on raw image features, its C chosen on few-shot validation rows.

Radford et al. (ICML 2021), appendix A.3, in the few-shot form of CoOp and SoftCPT.

Axes: C classes, N rows, D joint dimension.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import MethodOptions
from cptlite.methods.probes.estimator import FeatureClassifier, Fitted, TaskRows
from cptlite.options import option

__all__ = ["LinearProbe", "LinearProbeOptions", "search_c"]

COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
STEPS = 8
START_C = 1.0
SMALL = 10**9  # N D C, below which threads wait for one another longer than they work; measured


@dataclass(frozen=True, kw_only=True)
class LinearProbeOptions(MethodOptions):
    """Options of `LinearProbe`."""

    C: float | None = option(None, "Inverse regularisation; by default chosen on validation rows.", above=0)


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


class LinearProbe(FeatureClassifier):
    """Logistic regression on view 0 of raw features; a class without rows is never predicted.

    Parameters
    ----------
    C : float, optional
        Inverse regularisation. None chooses it on validation rows (`search_c`; it is the one choice in ``choices_``),
        or takes 1 where `fit` gets none.

    Notes
    -----
    At most 1000 iterations of lbfgs, as in the protocol. C D weights and C biases are counted as learned; the first
    class's stay zero where there are two.
    """

    least_classes = 2
    starts = {"C": START_C}

    def __init__(self, C: float | None = None) -> None:
        self.C = C

    @property
    def coef_(self) -> np.ndarray:
        """Weights of the fitted probe: ndarray of shape (C, D), two rows for two classes."""
        return self.classifier_.weights.numpy()

    @property
    def intercept_(self) -> np.ndarray:
        """Biases of the fitted probe: ndarray of shape (C,)."""
        return self.classifier_.bias.numpy()

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Fit, after choosing C where there are validation rows."""
        x, y = rows.x[:, 0].cpu().numpy(), rows.y.cpu().numpy()
        with threadpool_limits(1 if x.size * rows.num_classes < SMALL else None):
            if self.chooses and len(rows.y_val):
                probe, c = _best_probe(x, y, rows.x_val.cpu().numpy(), rows.y_val.cpu().numpy())
                choices = {"C": c}
            else:
                probe, choices = _fit(x, y, self.start_values()["C"]), {}
        weights, bias = np.zeros((rows.num_classes, x.shape[1])), np.full(rows.num_classes, -np.inf)
        weights[probe.classes_], bias[probe.classes_] = _per_class(probe)
        classifier = LinearClassifier(
            weights=torch.from_numpy(weights).to(rows.x),
            bias=torch.from_numpy(bias).to(rows.x),
            logit_scale=0.0,
            unit_length=False,
        )
        return Fitted(classifier=classifier, num_parameters=weights.size + bias.size, choices=choices)


def _best_probe(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray) -> tuple[LogisticRegression, float]:
    @cache
    def fitted(c: float) -> LogisticRegression:
        return _fit(x, y, c)

    c = search_c(lambda c: float(fitted(c).score(x_val, y_val)))
    return fitted(c), c


def _fit(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # The protocol stops at 1000 iterations; with the largest C it does not converge by then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=1000).fit(x, y)


def _per_class(probe: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """One row a class; scikit-learn keeps a single row for two classes."""
    if len(probe.classes_) > 2:
        return probe.coef_, probe.intercept_
    zero = np.zeros_like(probe.coef_)
    return np.concatenate([zero, probe.coef_]), np.concatenate([[0.0], probe.intercept_])
