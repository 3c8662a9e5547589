"""TransCLIP beside what the recordings show: no order of rows, moments, few rows, missing classes, gamma."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cptlite.methods.probes import transclip
from cptlite.methods.probes.transclip import Labelled, link_rows, nearest, transduce

DIM, K = 12, 4
NONE = Labelled(x=torch.empty(0, DIM), y=torch.empty(0).long())


def draw(count: int, spread: float = 0.1, classes: int = K) -> Labelled:
    """Rows around one corner a class."""
    y = torch.arange(count) % classes
    return Labelled(x=F.normalize(torch.eye(K, DIM)[y] + spread * torch.randn(count, DIM), dim=-1), y=y)


def weak_scores(rows: Labelled) -> torch.Tensor:
    """Those of a classifier that is often wrong."""
    return F.one_hot(rows.y, K) + 0.7 * torch.randn(len(rows.y), K)


@pytest.mark.parametrize("shots", [0, 3])
def test_rows_that_lie_together_get_one_class(shots: int) -> None:
    query, train = draw(80), draw(K * shots)
    scores = weak_scores(query)
    log_z, facts = transduce(query.x, scores, train, draw(8) if len(train.y) else NONE)
    before, after = ((each.argmax(dim=-1) == query.y).float().mean() for each in (scores, log_z))
    assert before < 0.8 and after > before + 0.1
    torch.testing.assert_close(log_z.exp().sum(dim=-1), torch.ones(80))
    assert facts["lambda"] == (0.5 if len(train.y) else 1) and facts["labelled"] == len(train.y)
    assert ("gamma" in facts) == bool(len(train.y))


@pytest.mark.parametrize("shots", [0, 3])
def test_no_prediction_hangs_on_the_order_of_rows(shots: int) -> None:
    query, train, order = draw(40, spread=0.6), draw(K * shots, spread=0.6), torch.randperm(40)
    scores = weak_scores(query)
    log_z, other = (transduce(query.x[rows], scores[rows], train, NONE)[0] for rows in (slice(None), order))
    torch.testing.assert_close(other.exp(), log_z[order].exp(), rtol=1e-3, atol=1e-5)


def test_links_are_the_nearest_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    query, train = draw(9, spread=1), draw(4, spread=1)
    monkeypatch.setattr(transclip, "AT_ONCE", 4)
    links = link_rows(query.x, train)
    cosines = torch.cat([query.x, train.x]) @ query.x.T
    cosines[range(9), range(9)] = -2
    wanted, to = cosines.topk(3, dim=-1)
    assert torch.equal(links.to, to)
    torch.testing.assert_close(links.weight, wanted)


def test_moments_are_those_of_weighted_rows() -> None:
    query, train = draw(9, spread=1), draw(5, spread=1)
    z, fixed = torch.rand(9, K).softmax(dim=-1), 0.3 * F.one_hot(train.y, K)
    means, variance = transclip._moments(query.x, z, train, fixed, torch.zeros(K, DIM))
    rows, weight = torch.cat([query.x, train.x]), torch.cat([z / 9, fixed])  # (14, K)
    torch.testing.assert_close(means, F.normalize(weight.T @ rows, dim=-1))
    spread = (weight[..., None] * (rows[:, None] - means).square()).sum(dim=(0, 1)) / weight.sum()
    torch.testing.assert_close(variance, spread)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_rows_and_classes_without_labelled_ones(count: int) -> None:
    query, train = draw(count), draw(6, classes=2)
    for labelled in (NONE, train):
        log_z, _ = transduce(query.x, weak_scores(query), labelled, labelled)
        assert log_z.shape == (count, K) and log_z.isfinite().all()


def test_what_no_row_is_of_and_what_does_not_vary() -> None:
    """A class with the score -inf stays without rows; a feature that is 0 everywhere has no variance."""
    query = draw(30, classes=3)
    x = query.x.clone()
    x[:, -1] = 0
    scores = weak_scores(query)
    scores[:, 3] = -math.inf
    log_z, _ = transduce(F.normalize(x, dim=-1), scores, NONE, NONE)
    assert not log_z.isnan().any() and (log_z.exp()[:, 3] == 0).all()


def test_gamma_is_chosen_on_validation_rows_and_else_a_middle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    query, train, val = draw(30), draw(8), draw(12)
    own = nearest(val.x, query.x, 1).to[:, 0]
    right, scores = F.one_hot(query.y, K).float(), weak_scores(query)
    found = {0.002: -right, 0.01: right, 0.02: -right, 0.2: right}
    monkeypatch.setattr(transclip, "refine", lambda *_, gamma, **__: found[gamma])
    assert (query.y[own] == val.y).all()
    log_z, facts = transduce(query.x, scores, train, val)
    assert facts["gamma"] == 0.01 and torch.equal(log_z, right)
    assert transduce(query.x, scores, train, NONE)[1]["gamma"] == 0.02
