"""Tip-Adapter: zero-shot scores plus votes of the training rows, without or with training.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification" (ECCV 2022).

Axes: K classes of all tasks, C of one task or range, B images, N training rows, M validation rows, V views,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import TipClassifier, votes
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.view_batches import count_batches, draw_batches
from cptlite.options import option

__all__ = ["TipAdapter", "TipAdapterF", "TipAdapterFOptions", "TipAdapterOptions", "search_blend", "train_keys"]

BETAS = [0.1 + step * (7 - 0.1) / 200 for step in range(200)]
ALPHAS = [0.1 + step * (3 - 0.1) / 20 for step in range(20)]
START_ALPHA, START_BETA = 1.17, 1.0
RATE, EPSILON = 1e-3, 1e-4


@dataclass(frozen=True, kw_only=True)
class TipAdapterOptions(TemplateOptions):
    """Options of `TipAdapter`."""

    alpha: float | None = option(None, "Weight of the votes; by default chosen on validation rows.", least=0)
    beta: float | None = option(None, "Sharpness of the votes; by default chosen on validation rows.", least=0)


@dataclass(frozen=True, kw_only=True)
class TipAdapterFOptions(TipAdapterOptions):
    """Options of `TipAdapterF`."""

    epochs: int = option(20, "Passes over the training rows.", least=1)


class TipAdapter(TextClassifier):
    """Training rows vote for their class, the nearer the more; learns nothing.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    alpha, beta : float, optional
        Weight and sharpness of the votes. None is chosen on validation rows (and is in ``choices_``), or is 1.17 and 1,
        the original's for ImageNet, where `fit` gets none.

    Notes
    -----
    score = exp(logit_scale) x . w_k + alpha * sum over the keys F_n of class k of exp(-beta (1 - x . F_n)). A key is a
    training image's normalised mean over its views. alpha and beta are each task's best on validation rows, the
    first of equals, over the original's grid of 200 x 20 (0.1 to 7, 0.1 to 3; ImageNet's, for every dataset). The
    template is the dataset's one, where the original averages several on some datasets. No numbers are learned; N D
    are kept.
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
        """Gather the keys and choose alpha and beta."""
        assert rows.text is not None
        text_weights = torch.tensor(rows.logit_scale).exp().to(rows.text) * rows.text  # (C, D)
        keys = F.normalize(rows.units.mean(dim=1), dim=-1)  # (N, D)
        keys, size = self._train(keys, rows, text_weights, generator)
        (alpha, beta), choices = self.start_values().values(), {}
        if self.chooses and len(rows.y_val):
            x_val = rows.units_val
            alpha, beta = search_blend(
                x_val @ text_weights.T,
                x_val @ keys.T,
                rows.y,
                rows.y_val,
                alphas=ALPHAS if self.alpha is None else [self.alpha],
                betas=BETAS if self.beta is None else [self.beta],
            )
            choices = self.chosen_of({"alpha": alpha, "beta": beta})
        classifier = TipClassifier(
            weights=rows.text,
            logit_scale=rows.logit_scale,
            keys=keys,
            key_labels=rows.y,
            alpha=rows.text.new_full((rows.num_classes,), alpha),
            beta=rows.text.new_full((rows.num_classes,), beta),
        )
        return Fitted(classifier=classifier, num_parameters=size, choices=choices)

    @staticmethod
    def join(parts: Sequence[TipClassifier]) -> TipClassifier:
        """One classifier of all tasks, from those of each in order."""
        return TipClassifier.join(parts)

    def _train(
        self, keys: Tensor, rows: TaskRows, text_weights: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        """Return the keys to use, and how many numbers in them are learned."""
        return keys, 0


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained, started from the training rows.

    Parameters
    ----------
    text_weights, classes, logit_scale, alpha, beta
        As in `TipAdapter`.
    epochs : int
        Passes over the training rows.
    random_state : int, RandomState or None
        Draws batches and views; None takes PyTorch's global generator.

    Notes
    -----
    AdamW on the cross-entropy of the training rows with alpha and beta as given or 1.17 and 1, rate 1e-3
    with a cosine over all steps, 20 epochs, batch 256, a random one of views 1 and up where there are any; then alpha
    and beta are chosen anew on validation rows. The original keeps the epoch that is best on *test* rows; here the last
    one is kept. N D numbers are learned.
    """

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        alpha: float | None = None,
        beta: float | None = None,
        epochs: int = TipAdapterFOptions.epochs,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale, alpha, beta)
        self.epochs = epochs
        self.random_state = random_state

    def _train(
        self, keys: Tensor, rows: TaskRows, text_weights: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, int]:
        alpha, beta = self.start_values().values()
        keys = train_keys(
            keys, rows.units, rows.y, text_weights, self.epochs, generator=generator, alpha=alpha, beta=beta
        )
        return keys, keys.numel()


def search_blend(
    text: Tensor,
    affinity: Tensor,
    key_labels: Tensor,
    labels: Tensor,
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
) -> tuple[float, float]:
    """Choose alpha and beta on validation rows, the first of equals in the original's order.

    Parameters
    ----------
    text : Tensor of shape (M, C)
        Zero-shot scores of the validation rows.
    affinity : Tensor of shape (M, N)
        Cosines with the keys.
    key_labels, labels : Tensor of shape (N,) and (M,), int64
    alphas, betas : sequence of float
        To choose among.

    Returns
    -------
    float, float
    """
    weights = text.new_tensor(alphas)[:, None, None]
    best, chosen = -1, (alphas[0], betas[0])
    for beta in betas:
        scores = text + weights * votes(affinity, key_labels, beta, text.shape[1])  # (alphas, M, C)
        hits = (scores.argmax(dim=-1) == labels).sum(dim=-1).tolist()
        if max(hits) > best:
            best = max(hits)
            chosen = (alphas[hits.index(best)], beta)
    return chosen


def train_keys(
    keys: Tensor,
    x: Tensor,
    y: Tensor,
    text_weights: Tensor,
    epochs: int = TipAdapterFOptions.epochs,
    *,
    generator: torch.Generator | None = None,
    alpha: float = START_ALPHA,
    beta: float = START_BETA,
) -> Tensor:
    """Train one task's keys (N, D) on its rows.

    Parameters
    ----------
    keys : Tensor of shape (N, D)
    x, y : Tensor of shape (N, V, D) and (N,)
        Unit-length features and classes; keys belong to the same rows.
    text_weights : Tensor of shape (C, D)
        Zero-shot weights times the factor on the cosines.
    epochs : int
    generator : torch.Generator, optional
        Of the CPU; draws batches and views.
    alpha, beta : float
        Weight and sharpness of the votes.

    Returns
    -------
    Tensor of shape (N, D)
    """
    keys = keys.clone().requires_grad_()
    optimizer = torch.optim.AdamW([keys], lr=RATE, eps=EPSILON)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count_batches(len(x), epochs))
    for batch, picked in draw_batches(x, epochs, generator):
        blend = alpha * votes(batch @ keys.T, y, beta, len(text_weights))  # (B, C)
        loss = F.cross_entropy(batch @ text_weights.T + blend, y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return keys.detach()
