"""Cross-modal adaptation: a linear head that takes class texts for further training images.

Lin et al., "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models" (CVPR 2023).

Axes: H heads trained side by side, C classes, B rows of half a batch, N training rows,
D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = ["AdamW", "CrossModal", "CrossModalOptions", "cross_modal_loss"]

RATES, DECAYS = (1e-3, 1e-4), (0.0, 1e-2, 1e-4)
WARMUP_STEPS, LOOK_EVERY = 50, 50
HALF_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class CrossModalOptions(TemplateOptions):
    """Options of `CrossModal`."""

    steps: int = option(1000, "Gradient steps; the original takes 12,800.", least=1)


class CrossModal(TextClassifier):
    """Linear head started from the zero-shot weights, trained on image and text features together.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    steps : int
        Gradient steps.
    random_state : int, RandomState or None
        Draws the batches; None takes PyTorch's global generator.

    Notes
    -----
    loss = cross-entropy of exp(logit_scale) x . w_k over batches of which half are images and half are class texts,
    all of unit length; w_k itself is not normalised and there is no bias. AdamW with a cosine after 50 linear warm-up
    steps; the learning rate (1e-3, 1e-4), weight decay (0, 1e-2, 1e-4) and step (looked at every 50) are each task's
    best on validation rows, the first of equals; without validation rows the first of each and the last step. C D
    numbers are learned.

    Deviations: 1,000 steps at most, where the original takes 12,800 and looks every 100; batches of 32 only, not 8
    too; every view is a training row; one text a class, from the dataset's template.
    """

    chooses = True
    unchosen = f"lr {RATES[0]:g}, weight decay {DECAYS[0]:g} and the last step"

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        steps: int = CrossModalOptions.steps,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.steps = steps
        self.random_state = random_state

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train the heads and keep the best."""
        head, choices = _best_head(rows, self.steps, generator)
        classifier = LinearClassifier(
            weights=head, bias=head.new_zeros(len(head)), logit_scale=rows.logit_scale, unit_length=True
        )
        return Fitted(classifier=classifier, num_parameters=head.numel(), choices=choices)


def cross_modal_loss(heads: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Cross-entropy of every head on the same rows.

    Parameters
    ----------
    heads : Tensor of shape (H, C, D)
    x, y : Tensor of shape (B, D) and (B,)
        Unit-length features of either kind, and their classes.
    scale : float
        Factor on the products, not its log.

    Returns
    -------
    Tensor of shape (H,)
    """
    logits = scale * torch.einsum("bd,hcd->hcb", x, heads)
    return F.cross_entropy(logits, y.expand(len(heads), -1), reduction="none").mean(dim=-1)


class AdamW:
    """AdamW over heads side by side, each with its own learning rate and weight decay.

    Parameters
    ----------
    heads : Tensor of shape (H, C, D)
        Changed in place.
    rates, decays : Tensor of shape (H, 1, 1)
    """

    def __init__(self, heads: Tensor, rates: Tensor, decays: Tensor) -> None:
        self.heads, self.rates, self.decays = heads, rates, decays
        self.mean, self.square = torch.zeros_like(heads), torch.zeros_like(heads)
        self.steps = 0

    def step(self, gradient: Tensor, share: float) -> None:
        """Go one step at a share of the rates."""
        self.steps += 1
        rates = share * self.rates
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        size = (self.square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        self.heads.mul_(1 - rates * self.decays)
        self.heads.sub_(rates / (1 - 0.9**self.steps) * self.mean / size)


def _best_head(rows: TaskRows, steps: int, generator: torch.Generator | None) -> tuple[Tensor, dict[str, float]]:
    """Best head (C, D) of one task on validation rows, and what it was trained with."""
    text = rows.text
    assert text is not None
    grid = list(product(RATES, DECAYS))[: None if len(rows.y_val) else 1]
    rates, decays = (text.new_tensor(values)[:, None, None] for values in zip(*grid, strict=True))
    heads = text.repeat(len(grid), 1, 1)  # (H, C, D)
    optimizer, scale = AdamW(heads, rates, decays), math.exp(rows.logit_scale)
    image_batches = _batches(*rows.all_views(), generator)
    text_batches = _batches(text, torch.arange(len(text), device=text.device), generator)
    best, kept, chosen = -1, text, {}
    for step in range(steps):
        x, y = (torch.cat(pair) for pair in zip(next(image_batches), next(text_batches), strict=True))
        optimizer.step(_gradient(heads, x, y, scale), _share(step, steps))
        if len(rows.y_val) and (step % LOOK_EVERY == 0 or step == steps - 1):
            hits = ((rows.units_val @ heads.mT).argmax(dim=-1) == rows.y_val).sum(dim=-1).tolist()  # (H,)
            if max(hits) > best:
                best = max(hits)
                head = hits.index(best)
                kept = heads[head].clone()
                chosen = {"lr": grid[head][0], "weight_decay": grid[head][1], "step": step + 1}
    return kept if len(rows.y_val) else heads[0], chosen


def _gradient(heads: Tensor, x: Tensor, y: Tensor, scale: float) -> Tensor:
    leaf = heads.detach().requires_grad_()
    return torch.autograd.grad(cross_modal_loss(leaf, x, y, scale).sum(), leaf)[0]


def _batches(x: Tensor, y: Tensor, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled half batches without end; the last partial one of a pass is dropped unless it is the only one."""
    size = min(HALF_BATCH, len(x))
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for start in range(0, len(x) - size + 1, size):
            picked = order[start : start + size]
            yield x[picked], y[picked]


def _share(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return (1 + math.cos(math.pi * step / steps)) / 2
