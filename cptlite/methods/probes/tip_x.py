"""TIP-X: votes of the training rows as Tip-Adapter has them, and divergences of what the class texts say of images.

Udandarao et al., "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023).

Axes: C classes of one task, N training rows, M validation rows, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import Classifier, TipXClassifier, class_logs, divergence_votes, divergences, exp32, votes
from cptlite.classifiers.joined import join_classifiers
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.search import count_hits, rows_at_once
from cptlite.options import option

__all__ = ["SusXOptions", "TipX", "TipXOptions", "rescaling", "search_three"]

ALPHAS = [0.1 + step * (50 - 0.1) / 20 for step in range(20)]
BETAS = [1 + step * (50 - 1) / 200 for step in range(200)]
GAMMAS = [0.1 + step * (30 - 0.1) / 50 for step in range(50)]
TEMPERATURE = 0.5


@dataclass(frozen=True, kw_only=True)
class TipXOptions(TemplateOptions):
    """Options of `TipX`."""

    alpha: float | None = option(None, "Weight of the votes; by default chosen on validation rows.", least=0)
    beta: float | None = option(None, "Sharpness of the votes; by default chosen on validation rows.", least=0)
    gamma: float | None = option(None, "Weight of the divergences; by default chosen on validation rows.", least=0)


@dataclass(frozen=True, kw_only=True)
class SusXOptions(TipXOptions):
    """Options of `TipX` on support sets."""

    supports: tuple[str, ...] = option(
        (), "Cached dataset of the same class names, generated or retrieved, whose images vote; one or several."
    )


class TipX(TextClassifier):
    """Training rows vote for their class, and against it the more, the less the class texts say the same of them.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    alpha, beta : float, optional
        Weight and sharpness of the votes.
    gamma : float, optional
        Weight of the divergences. None of any of the three is chosen on validation rows (and is in ``choices_``), or is
        1.17, 1 (Tip-Adapter's) and 0.1 (the smallest searched) where `fit` gets none.

    Notes
    -----
    score = exp(logit_scale) x . w_k + alpha sum_n exp(-beta (1 - x . F_n)) - gamma sum_n A(x, F_n), sums over the keys
    F_n of class k. p(x) is the softmax over the task's classes of x . w / 0.5; A is the Kullback-Leibler divergence of
    p(x) from p(F_n), moved and stretched to the range of the cosines x . F_n. A key is a training image's normalised
    mean over its views. alpha, beta and gamma are each task's best on validation rows, the first of equals in this
    order, over the original's whole grid of 20 x 200 x 50 (0.1 to 50, 1 to 50, 0.1 to 30). No numbers are learned; N D
    are kept.

    Deviations: the original stretches the divergences of all test rows together, by the least and the greatest among
    them, so that a prediction hangs on the other test rows. Here both ranges are those of the validation rows against
    the keys, or without validation rows those of the keys among themselves, and a prediction is one row's own. The
    original leaves out the divergences of the rows after the last full 100. The template is the dataset's one, and
    validation rows are few-shot ones, where the original takes the whole validation split.
    """

    starts = {"alpha": 1.17, "beta": 1.0, "gamma": 0.1}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Gather the keys, find the ranges and choose."""
        text, y = rows.text, rows.y
        assert text is not None
        keys = F.normalize(rows.units.mean(dim=1), dim=-1)  # (N, D)
        key_logs = class_logs(keys, text, TEMPERATURE)
        x = rows.units_val if len(rows.y_val) else keys  # (M, D)
        logs, affinity = class_logs(x, text, TEMPERATURE), x @ keys.T
        slope, offset = rescaling(divergences(logs, key_logs), affinity)
        values, choices = self.start_values(), {}
        if self.chooses and len(rows.y_val):
            found = search_three(
                exp32(rows.logit_scale) * x @ text.T,
                affinity,
                divergence_votes(logs, key_logs, y, slope, offset),
                y,
                rows.y_val,
                alphas=ALPHAS if self.alpha is None else [self.alpha],
                betas=BETAS if self.beta is None else [self.beta],
                gammas=GAMMAS if self.gamma is None else [self.gamma],
            )
            values = dict(zip(values, found, strict=True))
            choices = self.chosen_of(values)
        classifier = TipXClassifier(
            weights=text,
            keys=keys,
            key_labels=y,
            logit_scale=rows.logit_scale,
            temperature=TEMPERATURE,
            slope=slope,
            offset=offset,
            **values,
        )
        return Fitted(classifier=classifier, choices=choices)

    @staticmethod
    def join(parts: Sequence[TipXClassifier]) -> Classifier:
        """One classifier of all tasks, each of which has distributions of its own."""
        return parts[0] if len(parts) == 1 else join_classifiers(parts, [len(part.weights) for part in parts])


def rescaling(apart: Tensor, affinity: Tensor) -> tuple[float, float]:
    """Find the slope and the offset that bring divergences (M, N) to the range of cosines (M, N).

    Divergences that are all one have a slope of 0.
    """
    least, most = apart.aminmax()
    low, high = affinity.aminmax()
    slope = float((high - low) / (most - least)) if most > least else 0.0
    return slope, float(low) - slope * float(least)


def search_three(
    text: Tensor,
    affinity: Tensor,
    apart: Tensor,
    key_labels: Tensor,
    labels: Tensor,
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    gammas: Sequence[float] = GAMMAS,
) -> tuple[float, float, float]:
    """Choose alpha, beta and gamma on validation rows, the first of equals in the original's order.

    Parameters
    ----------
    text, apart : Tensor of shape (M, C)
        Zero-shot scores, and what gamma is multiplied with.
    affinity : Tensor of shape (M, N)
        Cosines with the keys.
    key_labels, labels : Tensor of shape (N,) and (M,), int64
    alphas, betas, gammas : sequence of float
        To choose among.

    Returns
    -------
    float, float, float
    """
    num_classes, weights = text.shape[1], text.new_tensor(alphas)[:, None, None]
    hits = torch.zeros(len(alphas), len(betas), len(gammas), dtype=torch.int64, device=text.device)
    chunks = torch.arange(len(text), device=text.device).split(rows_at_once(len(alphas) * num_classes))
    for rows in chunks:
        for index, beta in enumerate(betas):
            blend = weights * votes(affinity[rows], key_labels, beta, num_classes)  # (alphas, rows, C)
            hits[:, index] += count_hits(text[rows] + blend, apart[rows], labels[rows], text.new_tensor(gammas))
    best = int(hits.argmax())  # the first of equals
    rest, gamma = divmod(best, len(gammas))
    alpha, beta = divmod(rest, len(betas))
    return alphas[alpha], betas[beta], gammas[gamma]
