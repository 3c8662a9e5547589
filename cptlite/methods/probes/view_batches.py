"""Draws batches of training rows, each epoch of a random view.

Axes: N training rows, V views, B rows of a batch, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["BATCH", "count_batches", "draw_batches"]

BATCH = 256


def count_batches(count: int, epochs: int) -> int:
    """Count the batches that `draw_batches` draws of N rows."""
    return epochs * -(-count // BATCH)


def draw_batches(x: Tensor, epochs: int, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw features (B, D) and which rows they are of (B,), every row once an epoch.

    Parameters
    ----------
    x : Tensor of shape (N, V, D)
        An epoch takes of each row one of views 1 and up where there are any, else view 0.
    epochs : int
    generator : torch.Generator, optional
        Of the CPU.
    """
    count, views = x.shape[:2]
    for _ in range(epochs):
        view = (
            torch.randint(1, views, (count,), generator=generator)
            if views > 1
            else torch.zeros(count, dtype=torch.long)
        )
        images = x[torch.arange(count), view]  # (N, D)
        for picked in torch.randperm(count, generator=generator).to(x.device).split(BATCH):
            yield images[picked], picked
