"""LP++: a linear probe blended with the zero-shot weights class by class, its step sizes derived from the data.

Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP" (CVPR 2024).

Axes: C classes, N training rows, M validation rows, D joint dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = ["Blend", "LPPlusPlus", "LPPlusPlusOptions", "blend_step", "first_blend"]

ALPHA_EVERY, MOMENTUM, START = 10, 0.9, 250


@dataclass(frozen=True, kw_only=True)
class LPPlusPlusOptions(TemplateOptions):
    """Options of `LPPlusPlus`."""

    epochs: int = option(300, "Steps on all training rows.", least=1)


@dataclass(kw_only=True)
class Blend:
    """What is learned for one task, and the data-derived rates.

    Attributes
    ----------
    head : Tensor of shape (C, D)
    bias : Tensor of shape (C,)
    alpha : Tensor of shape (C,)
        Factor on each class's zero-shot weight.
    head_rate, alpha_rate : float
    """

    head: Tensor
    bias: Tensor
    alpha: Tensor
    head_rate: float
    alpha_rate: float

    def weights(self, text: Tensor) -> Tensor:
        """Head and zero-shot weights as one linear map, (C, D)."""
        return self.head + self.alpha[:, None] * text


class LPPlusPlus(TextClassifier):
    """Linear head plus a learned share of the zero-shot weights.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`; the factor is not used.
    epochs : int
        Steps on all training rows.

    Notes
    -----
    score = x . (w_k + alpha_k t_k) + b_k with unit-length x and t_k, and without CLIP's factor; loss = mean
    cross-entropy over all training rows, by full-batch gradient descent in two blocks: w and b every epoch (momentum
    0.9, rate 4 N / the largest eigenvalue of X^T X), alpha every tenth epoch (rate N / (4 max_k sum_n (x_n . t_k)^2)).
    w starts at the sum of its class's rows, alpha at 250 times the mean over classes of the mean cosine with their own
    text. Of 300 epochs the one best on validation rows is kept, the last of equals; without validation rows the last
    one. C (D + 2) numbers are learned.

    The rate of w is the edge of what is stable: with momentum and bias the loss swings on rows that no line separates,
    and the kept epoch is what validation rows make of it.

    Deviations: b starts at 0, not at random; the released code adds up alpha's gradients since the first epoch, here
    each step takes the current one, as the paper's equation does; every cached view is a training row; one text a
    class, from the dataset's template.
    """

    chooses = True
    unchosen = "the last epoch"

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        epochs: int = LPPlusPlusOptions.epochs,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.epochs = epochs

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train the blend and keep its best epoch."""
        weights, bias, epoch = _best_epoch(rows, self.epochs)
        return Fitted(
            classifier=LinearClassifier(weights=weights, bias=bias, logit_scale=0.0, unit_length=True),
            num_parameters=weights.numel() + 2 * len(weights),
            choices={"epoch": epoch} if len(rows.y_val) else {},
        )


def first_blend(x: Tensor, y: Tensor, text: Tensor) -> Blend:
    """Where training starts, and its rates, from the data.

    Parameters
    ----------
    x, y : Tensor of shape (N, D) and (N,)
        Unit-length features and classes.
    text : Tensor of shape (C, D)
        Unit-length zero-shot weights.
    """
    cosines = x @ text.T  # (N, C)
    counts = torch.bincount(y, minlength=len(text)).clamp(min=1)
    to_label = cosines.gather(1, y[:, None])[:, 0]  # (N,)
    means = to_label.new_zeros(len(text)).index_add(0, y, to_label) / counts  # (C,)
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # (D, D) or (N, N): of the same largest eigenvalue
    return Blend(
        head=torch.zeros_like(text).index_add(0, y, x),
        bias=text.new_zeros(len(text)),
        alpha=(START * means.mean()).expand(len(text)).clone(),
        head_rate=4 * len(x) / torch.linalg.eigvalsh(gram)[-1].item(),
        alpha_rate=len(x) / (4 * cosines.square().sum(dim=0).max().item()),
    )


def blend_step(
    blend: Blend, x: Tensor, y: Tensor, text: Tensor, momentum: tuple[Tensor, Tensor], step_alpha: bool
) -> None:
    """One epoch in place: head and bias, and alpha too when ``step_alpha``.

    The gradients are in closed form: with p the softmax and e the one-hot labels, (p - e)^T X / N for the head.
    """
    cosines = x @ text.T  # (N, C)
    logits = x @ blend.head.T + blend.alpha * cosines + blend.bias
    error = (logits.softmax(dim=-1) - F.one_hot(y, len(text))) / len(x)  # (N, C)
    for value, gradient, velocity in zip(
        (blend.head, blend.bias), (error.T @ x, error.sum(dim=0)), momentum, strict=True
    ):
        velocity.mul_(MOMENTUM).add_(gradient)
        value.sub_(blend.head_rate * velocity)
    if step_alpha:
        blend.alpha.sub_(blend.alpha_rate * (error * cosines).sum(dim=0))


def _best_epoch(rows: TaskRows, epochs: int) -> tuple[Tensor, Tensor, int]:
    """Weights (C, D) and bias (C,) of the epoch best on validation rows, and its number."""
    text = rows.text
    assert text is not None
    x, y = rows.all_views()
    blend = first_blend(x, y, text)
    momentum = (torch.zeros_like(blend.head), torch.zeros_like(blend.bias))
    best_weights, best_bias = text, blend.bias
    best_hits, best_epoch = (torch.tensor(start, device=x.device) for start in (-1, 0))
    for epoch in range(1, epochs + 1):
        blend_step(blend, x, y, text, momentum, epoch % ALPHA_EVERY == 0)
        weights = blend.weights(text)
        hits = ((rows.units_val @ weights.T + blend.bias).argmax(dim=-1) == rows.y_val).sum()
        # Chosen on the device: the host would wait for the number of hits in every epoch.
        better = hits >= best_hits
        best_hits, best_epoch = torch.where(better, hits, best_hits), torch.where(better, epoch, best_epoch)
        best_weights = torch.where(better, weights, best_weights)  # (C, D)
        best_bias = torch.where(better, blend.bias, best_bias)  # (C,)
    return best_weights, best_bias, int(best_epoch)
