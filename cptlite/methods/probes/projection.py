"""A linear map of image features, trained for their cosines with the class texts: what RLA and ProLIP learn.

Fahes et al., "CLIP's Visual Embedding Projector is a Few-shot Cornucopia" (arXiv 2410.05270, 2024).

Axes: H maps trained side by side, C classes of one task, N training rows, V views, I input and D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RATES", "START_RATE", "choose_map", "train_maps"]

RATES = (1e-5, 1e-4, 1e-3, 1e-2)
START_RATE = 1e-3
EPSILON = 1e-4


def train_maps(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    text: Tensor,
    *,
    scale: float,
    pull: float,
    rates: Sequence[float],
    epochs: int,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Train one map a learning rate on all rows of one view a step.

    Parameters
    ----------
    x, y : Tensor of shape (N, V, I) and (N,)
        Features and classes. Step e, from 0 on, reads view (e + 1) mod V.
    start : Tensor of shape (I, D)
        Where the maps start, and what they are pulled to.
    text : Tensor of shape (C, D)
        Unit-length class weights.
    scale : float
        Factor on the cosines, not its log.
    pull : float
        Factor on the squared distance from the start.
    rates : sequence of float
        H learning rates, of Adam with a cosine over the steps.
    epochs : int
        Steps.
    bias : Tensor of shape (D,), optional
        Added behind a map, and not trained.

    Returns
    -------
    maps : Tensor of shape (H, I, D)
    losses : Tensor of shape (H,)
        Before the last step.
    """
    maps = [start.clone().requires_grad_() for _ in rates]
    groups = [{"params": [each], "lr": lr} for each, lr in zip(maps, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, eps=EPSILON)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = start.new_zeros(len(maps))
    for epoch in range(epochs):
        stacked = torch.stack(maps)  # (H, I, D)
        images = _mapped(x[:, (epoch + 1) % x.shape[1]], stacked, bias)  # (H, N, D)
        scores = (scale * images @ text.T).transpose(1, 2)  # (H, C, N)
        fits = F.cross_entropy(scores, y.expand(len(maps), -1), reduction="none").mean(dim=-1)  # (H,)
        losses = fits + pull * (stacked - start).square().sum(dim=(1, 2))
        optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return torch.stack(maps).detach(), losses.detach()


def choose_map(maps: Tensor, x_val: Tensor, y_val: Tensor, text: Tensor, bias: Tensor | None = None) -> int:
    """Which of the maps (H, I, D) has the most hits on validation rows (M, I) and (M,), the first of equals."""
    scores = _mapped(x_val, maps, bias) @ text.T  # (H, M, C)
    return int((scores.argmax(dim=-1) == y_val).sum(dim=-1).argmax())


def _mapped(x: Tensor, maps: Tensor, bias: Tensor | None) -> Tensor:
    """Unit-length outcome (H, N, D) of rows (N, I)."""
    return F.normalize(x @ maps if bias is None else x @ maps + bias, dim=-1)
