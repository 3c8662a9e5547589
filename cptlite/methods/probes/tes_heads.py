"""TeS's two heads on frozen features: a linear classifier whose labels are softened by a head that reads the texts.

Wang et al., "Improved Visual Fine-tuning with Natural Language Supervision" (ICCV 2023), which fine-tunes a backbone.

Axes: C classes of one task, N' rows of all views, B rows of a batch, D joint dimension of images and texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = ["Heads", "TeSHeads", "TeSHeadsOptions", "step_heads", "tes_loss"]

RATES = (0.00316, 0.0316, 0.316)
BATCH, MOMENTUM, DECAY, TEMPERATURE = 256, 0.9, 1e-5, 0.03


@dataclass(frozen=True, kw_only=True)
class TeSHeadsOptions(TemplateOptions):
    """Options of `TeSHeads`."""

    epochs: int = option(100, "Passes over the training rows.", least=1)
    rate: float | None = option(None, "Learning rate; by default chosen on validation rows.", above=0, most=1)
    soft_share: float = option(0.1, "Share of the text head's probabilities in the labels.", least=0, most=1)
    text_weight: float = option(0.3, "Factor on the loss of the text head.", least=0)


class Heads(nn.Module):
    """The two heads of one task.

    Parameters
    ----------
    dim, text_dim, num_classes : int
        Of image features, of texts, and C.
    generator : torch.Generator, optional
        Draws the start, PyTorch's own of a linear layer.
    """

    def __init__(self, dim: int, text_dim: int, num_classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        # Of no values yet: PyTorch would draw these from its global generator.
        first, last, fc = (nn.utils.skip_init(nn.Linear, dim, size) for size in (dim, text_dim, num_classes))
        self.fc = fc
        self.projection_head = nn.Sequential(first, nn.BatchNorm1d(dim), nn.ReLU(), last)
        for layer in (first, last, self.fc):
            for value in (layer.weight, layer.bias):
                nn.init.uniform_(value, -1 / math.sqrt(dim), 1 / math.sqrt(dim), generator=generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, C) and unit-length projections (B, text_dim) of raw features (B, dim)."""
        return self.fc(x), F.normalize(self.projection_head(x), dim=-1)


class TeSHeads(TextClassifier):
    """Linear head trained on labels that a second head softens, which matches projected features with the texts.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`; the factor is not used.
    epochs : int
        Passes over the training rows.
    rate : float, optional
        Learning rate. None is chosen on validation rows (and is in ``choices_``), or is 0.00316 where `fit` gets none.
    soft_share, text_weight : float
        Lambda_v and lambda_t of the paper.
    random_state : int, RandomState or None
        Draws start and batches; None takes PyTorch's global generator.

    Notes
    -----
    v = A h + a of the raw feature h; q = normalise(MLP(h)), of two linear layers with batch normalisation and ReLU
    between them; t = q . z / 0.03 with z the unit-length text weights. loss = CE(v, y') + lambda_t CE(t, y) with
    y' = lambda_v softmax(t) + (1 - lambda_v) the label, of which no gradient goes back to t. SGD with Nesterov's
    momentum 0.9, decay 1e-5 and a cosine over the steps, batches of 256, 100 epochs. The rate is each task's best of
    0.00316, the original's for CIFAR-100, and 10 and 100 times it on validation rows, the first of equals; the last
    step is kept. Scores are v. C (D + 1) + 2 D^2 + 4 D numbers a task are learned, C (D + 1) are kept.

    This is not the paper's setting, which fine-tunes the whole backbone: with frozen features it is a linear probe with
    a soft target. Rates are chosen since few rows leave few steps; every cached view is a training row; a last batch of
    one row, which batch normalisation cannot take, is left out.
    """

    least_classes = 2
    starts = {"rate": RATES[0]}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        epochs: int = TeSHeadsOptions.epochs,
        rate: float | None = None,
        soft_share: float = TeSHeadsOptions.soft_share,
        text_weight: float = TeSHeadsOptions.text_weight,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.epochs = epochs
        self.rate = rate
        self.soft_share = soft_share
        self.text_weight = text_weight
        self.random_state = random_state

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Train the heads with each rate and keep the best."""
        choosing = self.chooses and len(rows.y_val) > 0
        rates = RATES if choosing else (self.start_values()["rate"],)
        best, kept, choices = -1, None, {}
        for rate in rates:
            heads = self._train(rows, rate, generator)
            with torch.no_grad():
                hits = int((heads.fc(rows.x_val).argmax(dim=-1) == rows.y_val).sum())
            if hits > best:
                best, kept = hits, heads
                choices = {"rate": rate} if choosing else {}
        assert kept is not None
        weights, bias = kept.fc.weight.detach(), kept.fc.bias.detach()
        classifier = LinearClassifier(weights=weights, bias=bias, logit_scale=0.0, unit_length=False)
        return Fitted(
            classifier=classifier, num_parameters=sum(value.numel() for value in kept.parameters()), choices=choices
        )

    def _train(self, rows: TaskRows, rate: float, generator: torch.Generator | None) -> Heads:
        text = rows.text
        assert text is not None
        x, y = rows.x.flatten(0, 1), rows.all_views()[1]  # (N', D), raw
        heads = Heads(x.shape[1], text.shape[1], len(text), generator).to(text.device, text.dtype)
        batches = [batch for _ in range(self.epochs) for batch in _batches(len(y), generator)]
        optimizer = _optimizer(heads, rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        for picked in batches:
            picked = picked.to(y.device)
            step_heads(heads, optimizer, x[picked], y[picked], text, self.soft_share, self.text_weight)
            schedule.step()
        return heads


def tes_loss(heads: Heads, x: Tensor, y: Tensor, text: Tensor, soft_share: float, text_weight: float) -> Tensor:
    """Loss of a batch, a scalar.

    Parameters
    ----------
    heads : Heads
    x, y : Tensor of shape (B, D) and (B,)
        Raw features and classes; B is 2 at least.
    text : Tensor of shape (C, D)
        Unit-length text weights.
    soft_share, text_weight : float
    """
    scores, projected = heads(x)
    by_text = projected @ text.T / TEMPERATURE  # (B, C)
    labels = F.one_hot(y, len(text)).to(scores)
    soft = soft_share * by_text.detach().softmax(dim=-1) + (1 - soft_share) * labels
    return F.cross_entropy(scores, soft) + text_weight * F.cross_entropy(by_text, y)


def step_heads(
    heads: Heads,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    text: Tensor,
    soft_share: float,
    text_weight: float,
) -> Tensor:
    """Take a step in place; return the loss before it. Gradients stay with the parameters."""
    loss = tes_loss(heads, x, y, text, soft_share, text_weight)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _optimizer(heads: Heads, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(heads.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)


def _batches(rows: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Shuffled batches of one pass, but for a last one of a single row."""
    for picked in torch.randperm(rows, generator=generator).split(BATCH):
        if len(picked) > 1:
            yield picked
