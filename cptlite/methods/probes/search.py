"""Counts validation rows that are right under many weights at once.

Axes: M validation rows, C classes, G weights; "..." are other hyper-parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["count_hits", "rows_at_once"]

HELD = 2**22  # numbers of one array of scores


def rows_at_once(scores_per_row: int) -> int:
    """Return how many validation rows' scores under all hyper-parameters of a step are held together."""
    return max(1, HELD // scores_per_row)


def count_hits(fixed: Tensor, slope: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Count the rows whose label has the highest of the scores fixed + weight * slope, for every weight.

    The weights under which a label is ahead of all others are an interval, found without going through the weights.

    Parameters
    ----------
    fixed, slope : Tensor of shape (..., M, C)
        Finite.
    labels : Tensor of shape (M,), int64
    weights : Tensor of shape (G,)

    Returns
    -------
    Tensor of shape (..., G), int64
        Of equal scores the first counts, as argmax has it, but at the very ends of an interval.
    """
    own = labels[:, None]  # (M, 1)
    lead, gain = (each.gather(-1, own.expand(*each.shape[:-1], 1)) - each for each in (fixed, slope))  # (..., M, C)
    crossing = -lead / gain
    lowest = torch.where(gain > 0, crossing, -math.inf).amax(dim=-1)[..., None]  # (..., M, 1)
    highest = torch.where(gain < 0, crossing, math.inf).amin(dim=-1)[..., None]
    before = torch.arange(fixed.shape[-1], device=labels.device) < own  # (M, C)
    lost = ((gain == 0) & ((lead < 0) | ((lead == 0) & before))).any(dim=-1)[..., None]
    return ((lowest < weights) & (weights < highest) & ~lost).sum(dim=-2)  # of (..., M, G)
