"""ProLIP: the last layer of the image tower, its projection, trained on few shots and pulled to what it was.

Fahes et al., "CLIP's Visual Embedding Projector is a Few-shot Cornucopia" (arXiv 2410.05270, 2024).

Axes: T tasks, C classes of one task, N training rows, V views, I input of the projection, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.utils import check_array
from torch import Tensor

from cptlite.classifiers import Classifier, PreProjectedClassifier, join_classifiers
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import FLOATS, LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.projection import RATES, START_RATE, choose_map, train_maps
from cptlite.options import option

__all__ = ["ProLIP", "ProLIPOptions"]


@dataclass(frozen=True, kw_only=True)
class ProLIPOptions(TemplateOptions):
    """Options of `ProLIP`."""

    epochs: int = option(300, "Steps on all training rows.", least=1)
    rate: float | None = option(None, "Learning rate; by default chosen on validation rows.", above=0, most=1)


class ProLIP(TextClassifier):
    """The image tower's projection, fine-tuned on the features before it.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`; text weights have the joint dimension D, features the I of the projection's input.
    projection : array-like of shape (I, D), optional
        Where it starts; by default the identity, with which it is `RLA` on other features.
    projection_bias : array-like of shape (D,), optional
        Added behind it, and not trained: a residual network's projection has one.
    epochs : int
        Steps on all training rows.
    rate : float, optional
        Learning rate. None is chosen on validation rows (and is in ``choices_``), or is 0.001 where `fit` gets none.

    Notes
    -----
    score = exp(logit_scale) normalise(h P + b) . t_k with h (I) before the projection and P (I, D) from the tower's on;
    loss = mean cross-entropy + lambda ||P - P_0||^2, all entries added up, lambda one over the mean number of images of
    a class. Adam with epsilon 1e-4 and a cosine, 300 steps on all rows, step e on view (e + 1) mod V. The rate is each
    task's best of 1e-5, 1e-4, 1e-3 and 1e-2 on validation rows, the first of equals; the last step is kept. I D numbers
    a task are learned.

    Deviations: exp(logit_scale) where the code writes 100; as many views as are cached, where it has 300; the rate
    alone is chosen, where the original's few-shot validation chooses lambda too.
    """

    starts = {"rate": START_RATE}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        projection: Any = None,
        projection_bias: Any = None,
        epochs: int = ProLIPOptions.epochs,
        rate: float | None = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.projection = projection
        self.projection_bias = projection_bias
        self.epochs = epochs
        self.rate = rate

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train a projection a rate and keep the best."""
        text, choosing = rows.text, self.chooses and len(rows.y_val) > 0
        assert text is not None
        rates = RATES if choosing else (self.start_values()["rate"],)
        start, bias = rows.projection or (torch.eye(rows.x.shape[-1]), None)
        start = start.to(text)
        bias = start.new_zeros(start.shape[1]) if bias is None else bias.to(text)
        scale, pull = math.exp(rows.logit_scale), len(rows.y.unique()) / len(rows.y)
        maps, _ = train_maps(
            rows.x, rows.y, start, text, scale=scale, pull=pull, rates=rates, epochs=self.epochs, bias=bias
        )
        best = choose_map(maps, rows.x_val, rows.y_val, text, bias) if choosing else 0
        classifier = PreProjectedClassifier(weights=text, matrix=maps[best], bias=bias, logit_scale=rows.logit_scale)
        choices = {"rate": rates[best]} if choosing else {}
        return Fitted(classifier=classifier, num_parameters=start.numel(), choices=choices)

    @staticmethod
    def join(parts: Sequence[PreProjectedClassifier]) -> Classifier:
        """One classifier of all tasks, each with a projection of its own."""
        return join_classifiers(parts, [len(part.weights) for part in parts])

    def _joint_dim(self, rows: TaskRows) -> int:
        return rows.x.shape[-1] if self.projection is None else len(self.projection[0])

    def _with_text(self, rows: TaskRows) -> TaskRows:
        rows = super()._with_text(rows)
        if self.projection is None:
            return rows
        matrix, bias = (_tensor(each, rows.x) for each in (self.projection, self.projection_bias))
        assert matrix is not None
        return replace(rows, projection=(matrix, bias))


def _tensor(values: Any, like: Tensor) -> Tensor | None:
    return None if values is None else torch.tensor(check_array(values, dtype=FLOATS, ensure_2d=False)).to(like)
