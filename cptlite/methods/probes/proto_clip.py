"""Proto-CLIP, training-free: how near an image is to a class's mean image and to its text, as probabilities mixed.

Jaykumar P et al., "Proto-CLIP: Vision-Language Prototypical Network for Few-Shot Learning" (IROS 2024).

Axes: C classes of one task, N training rows, V views, M validation rows, A shares, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import Classifier, TwoPrototypeClassifier, join_classifiers, mixed
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = ["ProtoCLIP", "ProtoCLIPOptions"]

ALPHAS = tuple(step / 10 for step in range(11))
BETAS = (*(step / 10 for step in range(1, 10)), *map(float, range(1, 21)))
START_ALPHA, START_BETA = 0.5, 1.0


@dataclass(frozen=True, kw_only=True)
class ProtoCLIPOptions(TemplateOptions):
    """Options of `ProtoCLIP`."""

    alpha: float | None = option(
        None, "Share of the image prototypes, at most 1; by default chosen on validation rows.", least=0, most=1
    )
    beta: float | None = option(None, "Sharpness of the distances; by default chosen on validation rows.", above=0)


class ProtoCLIP(TextClassifier):
    """Two prototypes a class, one of images and one of text; learns nothing.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`; the factor is not used.
    alpha, beta : float, optional
        Share of the image prototypes and sharpness. None is chosen on validation rows (and is in ``choices_``), or is
        0.5 and 1 where `fit` gets none.

    Notes
    -----
    p = alpha softmax(-beta |x - m|^2) + (1 - alpha) softmax(-beta |x - t|^2) over the classes, with unit-length x, text
    weights t_k and m_k, the normalised mean over a class's rows and views; scores are log p. alpha (0, 0.1, ..., 1) and
    beta (0.1, ..., 0.9, 1, ..., 20) are each task's best on validation rows, the first of equals with alpha the
    slower. No numbers are learned; 2 C D are kept.

    Deviations: the training-free variant alone, without the adapter and the trained prototypes of the paper's others; a
    class without rows is known by its text alone, as the original wants rows of all.
    """

    starts = {"alpha": START_ALPHA, "beta": START_BETA}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        alpha: float | None = None,
        beta: float | None = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.alpha = alpha
        self.beta = beta

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Average the prototypes and choose alpha and beta."""
        assert rows.text is not None
        x, y = rows.all_views()
        prototypes = F.normalize(torch.zeros_like(rows.text).index_add(0, y, x), dim=-1)  # (C, D)
        (alpha, beta), choices = self.start_values().values(), {}
        if self.chooses and len(rows.y_val):
            alphas = ALPHAS if self.alpha is None else (self.alpha,)
            betas = BETAS if self.beta is None else (self.beta,)
            alpha, beta = _best(rows, prototypes, alphas, betas)
            choices = self.chosen_of({"alpha": alpha, "beta": beta})
        classifier = TwoPrototypeClassifier(weights=rows.text, prototypes=prototypes, alpha=alpha, beta=beta)
        return Fitted(classifier=classifier, choices=choices)

    @staticmethod
    def join(parts: Sequence[TwoPrototypeClassifier]) -> Classifier:
        """One classifier of all tasks, each with probabilities of its own."""
        return join_classifiers(parts, [len(part.weights) for part in parts])


def _best(rows: TaskRows, prototypes: Tensor, alphas: Sequence[float], betas: Sequence[float]) -> tuple[float, float]:
    """Alpha and beta with the most hits on validation rows."""
    assert rows.text is not None
    shares, hits = prototypes.new_tensor(alphas), []
    for beta in betas:
        log_p = mixed(rows.units_val, prototypes, rows.text, shares, beta)  # (A, M, C)
        hits.append((log_p.argmax(dim=-1) == rows.y_val).sum(dim=-1))
    best = int(torch.stack(hits, dim=1).flatten().argmax())  # of (A, betas): the first of equals
    return alphas[best // len(betas)], betas[best % len(betas)]
