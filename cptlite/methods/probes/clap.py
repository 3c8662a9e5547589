"""CLAP: class prototypes trained from the zero-shot ones, each held back as far as zero-shot is right about its class.

Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models" (CVPR 2024).

Axes: C classes of one task, N training images, V views, B rows of a batch, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = [
    "CLAP",
    "CLAPOptions",
    "Prototypes",
    "ZSLP",
    "ZSLPOptions",
    "distances",
    "multipliers",
    "take_step",
]

BATCH, RATE, MOMENTUM, WARMUP_RATE = 256, 0.1, 0.9, 1e-5
NONE, ADAPTATIVE, COSINE = "none", "adaptative", "cosine"


@dataclass(frozen=True, kw_only=True)
class ZSLPOptions(TemplateOptions):
    """Options of `ZSLP`."""

    epochs: int = option(300, "Passes over as many rows as there are images; at least one step each.", least=1)


@dataclass(frozen=True, kw_only=True)
class CLAPOptions(ZSLPOptions):
    """Options of `CLAP`."""

    constraint: str = option(
        "l2",
        "Squared distance from the text, weighted by class; by the mean weight; by weights of mean 1; by 1; the cosine "
        "in its place; or weights that grow with each epoch.",
        choices=("l2", "constant", "corrected", "balanced", "cosine", "adaptative"),
    )


@dataclass(kw_only=True)
class Prototypes:
    """What is trained for one task.

    Attributes
    ----------
    start : Tensor of shape (C, D)
        Raw text features.
    values : Tensor of shape (C, D)
        As they are now, of any length.
    velocity : Tensor of shape (C, D)
    multipliers : Tensor of shape (C,)
        Weight of each class's distance from its start; zeros for none.
    penalty : Tensor of shape (C,)
        How much a distance adds to them in an outer step: the distance in the one before.
    constraint : str
        Of `CLAPOptions`, or ``none``.
    """

    start: Tensor
    values: Tensor
    velocity: Tensor
    multipliers: Tensor
    penalty: Tensor
    constraint: str = NONE

    @classmethod
    def begin(cls, text: Tensor, multipliers: Tensor, constraint: str) -> Prototypes:
        """Start at the text features (C, D)."""
        zeros = torch.zeros_like(multipliers)
        state = {"values": text.clone(), "velocity": torch.zeros_like(text)}
        return cls(start=text, multipliers=multipliers, penalty=zeros, constraint=constraint, **state)

    def outer_step(self) -> None:
        """Let each multiplier grow by its class's distance, times that of the outer step before."""
        far = distances(self.values, self.start, self.constraint)
        self.multipliers, self.penalty = (self.multipliers + self.penalty * far).clamp(min=0), far


class ZSLP(TextClassifier):
    """Linear probe of unit-length features that starts from the zero-shot prototypes.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`; text weights as they come out of the encoder, *not* of unit length.
    epochs : int
        Passes over as many rows as there are images.
    random_state : int, RandomState or None
        Draws the batches; None takes PyTorch's global generator.

    Notes
    -----
    score = exp(logit_scale) normalise(x) . normalise(P_k), with P_k from the mean raw text feature of its class on;
    loss = mean cross-entropy. SGD with momentum 0.9 and a cosine from 0.1 after one epoch at 1e-5, 300 epochs of
    max(1, N // 256) batches of 256 rows, drawn from all N V views of all images. The last step is kept and nothing is
    chosen: it needs no validation rows. C D numbers are learned.

    Scores do not depend on the length of P_k, but a step turns it the less the longer it is: with the length l of the
    start the rate acts as 0.1 / l^2, and CLAP's pull as l^2. Unit-length text weights are another method.

    Deviations: the cached views, the plain one among them, where the original caches 20 augmented ones; the dataset's
    template, where the original averages 7 and one on ImageNet.
    """

    needs_raw_text = True
    constraint = NONE

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        epochs: int = ZSLPOptions.epochs,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.epochs = epochs
        self.random_state = random_state

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train the prototypes."""
        text, (x, y), scale = rows.raw_text, rows.all_views(), math.exp(rows.logit_scale)
        assert text is not None
        found = Prototypes.begin(text, multipliers(x, y, text, scale, self.constraint), self.constraint)
        for epoch in range(self.epochs):
            rate = _rate(epoch, self.epochs)
            for picked in _batches(len(rows.y), len(y), generator):
                picked = picked.to(y.device)
                take_step(found, x[picked], y[picked], scale, rate)
            if self.constraint == ADAPTATIVE:
                found.outer_step()
        weights = F.normalize(found.values, dim=-1)
        classifier = LinearClassifier(
            weights=weights, bias=weights.new_zeros(len(weights)), logit_scale=rows.logit_scale, unit_length=True
        )
        return Fitted(classifier=classifier, num_parameters=weights.numel())


class CLAP(ZSLP):
    """ZS-LP whose prototypes are pulled back to where they started.

    Parameters
    ----------
    text_weights, classes, logit_scale, epochs, random_state
        As in `ZSLP`.
    constraint : str
        ``l2``, the paper's; or one of the released code's others.

    Notes
    -----
    loss = cross-entropy + mean_k lambda_k ||P_k - t_k||^2 with t_k the raw text feature and lambda_k the mean
    probability that zero-shot gives class k on its own training rows, all views; 0 for a class without rows. The other
    constraints: ``constant``, the mean of lambda for all; ``corrected``, lambda C / sum(lambda); ``balanced``, 1;
    ``cosine``, 1 - cos(P_k, t_k) in place of the squared distance; ``adaptative``, with lambda_k + rho_k d_k for
    lambda_k after each epoch, d_k the squared distance and rho_k that of the epoch before, from 0 on. The paper's outer
    update of its Lagrangian is that last one; its results, and the released default, never run it.

    Deviations: those of `ZSLP`.
    """

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        epochs: int = CLAPOptions.epochs,
        constraint: str = CLAPOptions.constraint,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale, epochs, random_state)
        self.constraint = constraint


def multipliers(x: Tensor, y: Tensor, text: Tensor, scale: float, constraint: str) -> Tensor:
    """Weight of each class's distance from its start, (C,).

    Parameters
    ----------
    x, y : Tensor of shape (N V, D) and (N V,)
        Unit-length features of all views, and their classes.
    text : Tensor of shape (C, D)
        Text features of any length.
    scale : float
        Factor on the cosines, not its log.
    constraint : str
    """
    if constraint in (NONE, "balanced"):
        return text.new_full((len(text),), float(constraint != NONE))
    own = (scale * x @ F.normalize(text, dim=-1).T).softmax(dim=-1).gather(1, y[:, None])[:, 0]  # (N V,)
    counts = torch.bincount(y, minlength=len(text)).clamp(min=1)
    means = own.new_zeros(len(text)).index_add(0, y, own) / counts
    if constraint == "constant":
        return means.mean().expand(len(text)).clone()
    return len(text) * means / means.sum() if constraint == "corrected" else means


def distances(values: Tensor, start: Tensor, constraint: str) -> Tensor:
    """How far each prototype (C, D) is from its start: (C,)."""
    if constraint == COSINE:
        return 1 - F.cosine_similarity(values, start)
    return (values - start).square().sum(dim=-1)


def take_step(found: Prototypes, x: Tensor, y: Tensor, scale: float, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of SGD in place, on a batch (B, D) and (B,); return loss, penalty in it, and gradient (C, D)."""
    leaf = found.values.detach().requires_grad_()
    penalty = (found.multipliers * distances(leaf, found.start, found.constraint)).mean()
    loss = F.cross_entropy(scale * x @ F.normalize(leaf, dim=-1).T, y) + penalty
    (gradient,) = torch.autograd.grad(loss, leaf)
    found.velocity = MOMENTUM * found.velocity + gradient
    found.values = found.values - rate * found.velocity
    return loss.detach(), penalty.detach(), gradient


def _rate(epoch: int, epochs: int) -> float:
    """Learning rate of an epoch, counted from 0."""
    return RATE / 2 * (1 + math.cos(math.pi * (epoch - 1) / epochs)) if epoch else WARMUP_RATE


def _batches(images: int, rows: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Rows of one epoch's batches: of all views, but about as many as there are images."""
    order = torch.randperm(rows, generator=generator)
    yield from order[: BATCH * max(1, images // BATCH)].split(BATCH)
