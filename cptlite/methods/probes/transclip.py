"""TransCLIP: classes of all query rows found together, from a classifier's scores and where the rows lie; transductive.

Zanella et al., "Boosting Vision-Language Models with Transduction" (NeurIPS 2024).

Axes: K classes of one task, Q query rows, S labelled rows, M validation rows, R rows of any kind, n neighbours, D joint
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["GAMMAS", "Labelled", "Links", "link_rows", "nearest", "refine", "transduce"]

GAMMAS = (0.002, 0.01, 0.02, 0.2)
START_GAMMA = 0.02
TRUST_ALONE, TRUST_LABELLED = 1.0, 0.5
NEIGHBOURS, CONFIDENT = 3, 8
ROUNDS, STEPS = 10, 5
SCALE = 50.0
AT_ONCE = 4096  # rows that are compared with all others


class Links(NamedTuple):
    """The query rows next to each row.

    Attributes
    ----------
    to : Tensor of shape (R, n), int64
        Which; the first of the R are the query rows, then come the labelled ones.
    weight : Tensor of shape (R, n)
        Cosines.
    """

    to: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Rows of known classes.

    Attributes
    ----------
    x : Tensor of shape (S, D)
        Unit length.
    y : Tensor of shape (S,), int64
    """

    x: Tensor
    y: Tensor


def transduce(x: Tensor, scores: Tensor, train: Labelled, val: Labelled) -> tuple[Tensor, dict[str, float]]:
    """Find the classes of query rows together.

    Parameters
    ----------
    x : Tensor of shape (Q, D)
        Unit-length query rows.
    scores : Tensor of shape (Q, K)
        A classifier's.
    train, val : Labelled
        Rows that it learned from, and to choose gamma on; none of either will do.

    Returns
    -------
    Tensor of shape (Q, K)
        Logs of probabilities.
    dict of str to float
        ``lambda``, ``labelled`` (S) and, where there are labelled rows, ``gamma``.

    Notes
    -----
    y_i is the softmax of a row's scores, z_i starts there. Ten rounds and one end with five steps each of
    z_ik ~ y_ik^lambda exp((h_ik + 50 / 6 (sum_j w_ij z_j)) / 50), normalised over k, where h_ik is the sum over D of
    -1/2 (x_i - m_k)^2 / v, and w are the cosines with each row's three nearest query rows and with the rows, labelled
    ones (z_j their one-hot class) too, whose three it is one of. After each round m_k is the unit-length mean and v the
    variance, shared by classes, of the query rows weighted by z / Q and the labelled ones weighted by 50 gamma / S. m_k
    starts at the mean of its class's labelled rows, or without any at that of its eight most confident query rows
    weighted by z; v at 1 / D. lambda is 1 without labelled rows, 0.5 with them. gamma is the best of 0.002, 0.01, 0.02
    and 0.2 on validation rows, each of which has the class of its nearest query row, the first of equals; without
    validation rows 0.02.

    Deviations from the released code: there z and the neighbours carry over from one gamma to the next; here each gamma
    starts anew. There labelled rows stand before the query rows among the neighbours and behind them in z, so that
    the first S query rows count as labelled ones' neighbours and predictions hang on the order of rows; here both
    orders are one. There each labelled row's nearest query row is left out, as if it were itself. K is the number of
    all classes, not of those that the query rows' labels have. A class without labelled rows, and fewer query rows than
    eight, are no errors.
    """
    labelled = train if len(train.y) else None
    links = link_rows(x, labelled)
    log_prior = scores.log_softmax(dim=-1)
    if labelled is None:
        return refine(x, log_prior, links, trust=TRUST_ALONE), {"lambda": TRUST_ALONE, "labelled": 0}
    gammas = GAMMAS if len(val.y) else (START_GAMMA,)
    found = [refine(x, log_prior, links, trust=TRUST_LABELLED, labelled=labelled, gamma=gamma) for gamma in gammas]
    best = 0
    if len(val.y):
        own = nearest(val.x, x, 1).to[:, 0]  # (M,)
        hits = [int((log_z[own].argmax(dim=-1) == val.y).sum()) for log_z in found]
        best = hits.index(max(hits))
    return found[best], {"lambda": TRUST_LABELLED, "labelled": len(train.y), "gamma": gammas[best]}


def nearest(rows: Tensor, x: Tensor, count: int, skip: int = 0) -> Links:
    """Link rows (R, D) with their nearest of x (Q, D), but for the ``skip`` nearest; fewer where there are not as many.

    All unit length.
    """
    parts = [(part @ x.T).topk(min(count + skip, len(x)), dim=-1) for part in rows.split(AT_ONCE)]
    weight, to = (torch.cat([part[index] for part in parts])[:, skip:] for index in (0, 1))
    return Links(to=to, weight=weight)


def link_rows(x: Tensor, labelled: Labelled | None) -> Links:
    """Link each query row with the nearest others, and each labelled one with its nearest query rows."""
    links = nearest(x, x, NEIGHBOURS, skip=1)  # of itself
    if labelled is None:
        return links
    # As wide as the first: with few query rows there are fewer others.
    more = nearest(labelled.x, x, links.to.shape[1])
    return Links(*(torch.cat(pair) for pair in zip(links, more, strict=True)))


def refine(
    x: Tensor,
    log_prior: Tensor,
    links: Links,
    *,
    trust: float,
    labelled: Labelled | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Find logs of the probabilities z (Q, K) of query rows (Q, D), as `transduce` does, at one lambda and gamma.

    Parameters
    ----------
    x : Tensor of shape (Q, D)
        Unit length.
    log_prior : Tensor of shape (Q, K)
    links : Links
    trust : float
        lambda.
    labelled : Labelled, optional
    gamma : float
    """
    num_classes = log_prior.shape[1]
    fixed = x.new_zeros(0, num_classes) if labelled is None else F.one_hot(labelled.y, num_classes).to(x)  # (S, K)
    share = SCALE * gamma / max(1, len(fixed))
    log_z = log_prior
    means, variance = _start(x, log_prior.exp(), labelled, fixed), x.new_full((x.shape[1],), 1 / x.shape[1])
    for index in range(ROUNDS + 1):
        scaled = means / variance  # (K, D)
        near = x @ scaled.T - (means * scaled).sum(dim=-1) / 2  # h, less what it has of the row alone: (Q, K)
        for _ in range(STEPS):
            pull = _pull(links, torch.cat([log_z.exp(), fixed]), len(x))
            log_z = (trust * log_prior + near / SCALE + pull / (2 * NEIGHBOURS)).log_softmax(dim=-1)
        if index < ROUNDS:
            means, variance = _moments(x, log_z.exp(), labelled, share * fixed, means)
    return log_z


def _start(x: Tensor, z: Tensor, labelled: Labelled | None, fixed: Tensor) -> Tensor:
    """Mean of each class at the start, (K, D)."""
    weight, rows = z.topk(min(CONFIDENT, len(x)), dim=0)  # (8, K)
    means = F.normalize((weight[..., None] * x[rows]).sum(dim=0), dim=-1)
    if labelled is None:
        return means
    own = F.normalize(fixed.T @ labelled.x, dim=-1)
    return torch.where(fixed.sum(dim=0)[:, None] > 0, own, means)


def _pull(links: Links, z: Tensor, count: int) -> Tensor:
    """Sum of the neighbours' z (R, K), both ways, at each of the first rows, (Q, K)."""
    total = z.new_zeros(count, z.shape[1])
    for to, weight in zip(links.to.T, links.weight.T[..., None], strict=True):  # the nearest, the next, ...
        total += weight[:count] * z[to[:count]]
        total.index_add_(0, to, weight * z)
    return total


def _moments(x: Tensor, z: Tensor, labelled: Labelled | None, fixed: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Means (K, D) and variance (D,) of rows weighted by z / Q (Q, K), and ``fixed`` (S, K) of the labelled ones.

    A class that no row is of keeps its mean.
    """
    weight = z / len(x)
    counts, sums, squares = weight.sum(dim=0), weight.T @ x, weight.sum(dim=-1) @ x.square()
    if labelled is not None:
        counts, sums = counts + fixed.sum(dim=0), sums + fixed.T @ labelled.x
        squares = squares + fixed.sum(dim=-1) @ labelled.x.square()
    tiny = torch.finfo(x.dtype).tiny
    there = counts[:, None] > tiny
    means = torch.where(there, F.normalize(sums / counts.clamp(min=tiny)[:, None], dim=-1), before)
    spread = squares - 2 * (means * sums).sum(dim=0) + counts @ means.square()  # of (x - m)^2
    return means, (spread / counts.sum()).clamp(min=torch.finfo(x.dtype).eps ** 2)
