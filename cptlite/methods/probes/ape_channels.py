"""What APE and APE-T share: the channels that tell classes apart, and the search over weighted votes.

Zhu et al., "Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement" (ICCV 2023).

Axes: C classes of one task, N training rows, M validation rows, G weights of each key, Q channels, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cptlite.classifiers import votes
from cptlite.methods.probes.search import count_hits, rows_at_once

__all__ = [
    "channel_criterion",
    "class_means",
    "key_divergences",
    "num_channels",
    "search_votes",
    "select_channels",
]

BETAS = [0.1 + step * (7 - 0.1) / 200 for step in range(200)]
ALPHAS = [0.1 + step * (7 - 0.1) / 20 for step in range(20)]
TINY = 1e-6


def class_means(text: Tensor, keys: Tensor, y: Tensor) -> Tensor:
    """Mean of each class's text and keys, (C, D) and (N, D) of classes (N,) to (C, D)."""
    counts = 1 + torch.bincount(y, minlength=len(text)).to(text)
    return text.index_add(0, y, keys) / counts[:, None]


def channel_criterion(means: Tensor, text: Tensor, similarity_weight: float) -> Tensor:
    """How well each channel (D,) tells classes apart: variance of the texts less similarity of the classes' vectors.

    Parameters
    ----------
    means, text : Tensor of shape (C, D)
        Mean vectors of the classes and their texts; of one class every channel is as good.
    similarity_weight : float
        In [0, 1]; the rest is the weight of the variance.
    """
    count = len(text)
    if count < 2:
        return torch.zeros_like(text[0])
    similarity = (means.sum(dim=0).square() - means.square().sum(dim=0)) / (count * (count - 1))
    return (1 - similarity_weight) * text.var(dim=0) - similarity_weight * similarity


def num_channels(share: float, dim: int) -> int:
    """How many of D channels a share of them is, one at least."""
    return max(1, round(share * dim))


def select_channels(criterion: Tensor, count: int) -> Tensor:
    """Channels of the largest criterion, best first, (count,)."""
    return criterion.topk(count).indices


def key_divergences(keys: Tensor, text: Tensor, y: Tensor) -> Tensor:
    """How far each key's class is from what the texts say of the key, in bits, (N, Q) and (C, Q) to (N,)."""
    own = (keys @ text.T).softmax(dim=-1).gather(1, y[:, None])[:, 0]
    return ((1 + TINY) / (own + TINY)).log2()


def search_votes(
    text: Tensor,
    affinity: Tensor,
    key_weights: Tensor,
    key_labels: Tensor,
    labels: Tensor,
    *,
    alphas: Sequence[float] | None = None,
    betas: Sequence[float] | None = None,
) -> tuple[float, float, int]:
    """Choose alpha, beta and one of several weights of the keys, the first of equals in the original's order.

    Parameters
    ----------
    text : Tensor of shape (M, C)
        Zero-shot scores of the validation rows.
    affinity : Tensor of shape (M, N)
        Cosines with the keys.
    key_weights : Tensor of shape (G, N)
    key_labels, labels : Tensor of shape (N,) and (M,), int64
    alphas, betas : sequence of float, optional
        To choose among; by default the original's grid.

    Returns
    -------
    alpha, beta : float
    index : int
        Which of the G.
    """
    alphas, betas = ALPHAS if alphas is None else alphas, BETAS if betas is None else betas
    num_classes, weights = text.shape[1], text.new_tensor(alphas)
    hits = torch.zeros(len(betas), len(alphas), len(key_weights), dtype=torch.int64, device=text.device)
    per_row = len(key_weights) * max(affinity.shape[1], num_classes)
    for rows in torch.arange(len(text), device=text.device).split(rows_at_once(per_row)):
        for place, beta in enumerate(betas):
            near = votes(affinity[rows], key_labels, beta, num_classes, key_weights[:, None])  # (G, rows, C)
            hits[place] += count_hits(text[rows], near, labels[rows], weights).T
    best = int(hits.argmax())  # the first of equals
    rest, index = divmod(best, len(key_weights))
    place, alpha = divmod(rest, len(alphas))
    return alphas[alpha], betas[place], index
