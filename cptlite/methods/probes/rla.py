"""RLA: a square linear adapter of the image features, pulled to the identity.

Fahes et al., "CLIP's Visual Embedding Projector is a Few-shot Cornucopia" (arXiv 2410.05270, 2024): ProLIP's baseline.

Axes: T tasks, C classes of one task, N training rows, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cptlite.classifiers import Classifier, ProjectedClassifier, join_classifiers
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.projection import RATES, START_RATE, choose_map, train_maps
from cptlite.options import option

__all__ = ["RLA", "RLAOptions"]


@dataclass(frozen=True, kw_only=True)
class RLAOptions(TemplateOptions):
    """Options of `RLA`."""

    epochs: int = option(300, "Steps on all training rows.", least=1)
    rate: float | None = option(None, "Learning rate; by default chosen on validation rows.", above=0, most=1)


class RLA(TextClassifier):
    """A linear map of the image features, which stay near to what they are.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    epochs : int
        Steps on all training rows.
    rate : float, optional
        Learning rate. None is chosen on validation rows (and is in ``choices_``), or is 0.001 where `fit` gets none.

    Notes
    -----
    score = exp(logit_scale) normalise(M x) . t_k with M (D, D) from the identity on; loss = mean cross-entropy + lambda
    ||M - I||^2, all entries added up, lambda one over the mean number of images of a class. Adam with epsilon 1e-4 and
    a cosine, 300 steps on all rows, step e on view (e + 1) mod V. The rate is each task's best of 1e-5, 1e-4, 1e-3 and
    1e-2 on validation rows, the first of equals; the last step is kept. D^2 numbers a task are learned.

    Deviations: exp(logit_scale) where the code writes 100; as many views as are cached, where it has 300; one rate a
    task is chosen, where the original reports each of the four, without validation rows.
    """

    starts = {"rate": START_RATE}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        epochs: int = RLAOptions.epochs,
        rate: float | None = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.epochs = epochs
        self.rate = rate

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train a map a rate and keep the best."""
        text, choosing = rows.text, self.chooses and len(rows.y_val) > 0
        assert text is not None
        rates = RATES if choosing else (self.start_values()["rate"],)
        start = torch.eye(text.shape[1], dtype=text.dtype, device=text.device)
        scale, pull = math.exp(rows.logit_scale), len(rows.y.unique()) / len(rows.y)
        maps, _ = train_maps(rows.units, rows.y, start, text, scale=scale, pull=pull, rates=rates, epochs=self.epochs)
        best = choose_map(maps, rows.units_val, rows.y_val, text) if choosing else 0
        classifier = ProjectedClassifier(weights=text, matrix=maps[best], logit_scale=rows.logit_scale)
        choices = {"rate": rates[best]} if choosing else {}
        return Fitted(classifier=classifier, num_parameters=start.numel(), choices=choices)

    @staticmethod
    def join(parts: Sequence[ProjectedClassifier]) -> Classifier:
        """One classifier of all tasks, each with a map of its own."""
        return join_classifiers(parts, [len(part.weights) for part in parts])
