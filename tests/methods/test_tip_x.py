"""TIP-X beside what the recordings show: the search, ranges of the rows at hand, and tasks of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.classifiers import JoinedClassifier, TipXClassifier, class_logs, divergence_votes, divergences, votes
from cptlite.methods.probes import search
from cptlite.methods.probes.search import count_hits
from cptlite.methods.probes.tip_x import TEMPERATURE, TipX, rescaling, search_three

DIM = 12


def units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, DIM), dim=-1)


def test_hits_are_those_of_going_through_the_weights() -> None:
    fixed, slope, labels = torch.randn(3, 40, 5), torch.randn(40, 5), torch.randint(5, (40,))
    slope[:10] = 0  # then what is fixed decides
    slope[10:20, 1], fixed[..., 10:20, 1] = slope[10:20, 3], fixed[..., 10:20, 3]  # two classes always equal
    weights = torch.linspace(0, 4, 30)
    scores = fixed[:, None] + weights[:, None, None] * slope  # (3, weights, 40, 5)
    assert torch.equal(count_hits(fixed, slope, labels, weights), (scores.argmax(dim=-1) == labels).sum(dim=-1))


@pytest.mark.parametrize("held", [2**22, 50])
def test_the_search_is_the_one_over_every_combination(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "HELD", held)
    grids = {"alphas": [0.5, 1.0, 8.0], "betas": [1.0, 5.0], "gammas": [0.1, 0.7, 2.0, 6.0]}
    labels, y = torch.randint(4, (30,)), torch.randint(4, (9,))
    text, affinity, apart = torch.randn(30, 4), units(30) @ units(9).T, torch.randn(30, 4)
    hits = {
        (alpha, beta, gamma): int(
            ((text + gamma * apart + alpha * votes(affinity, y, beta, 4)).argmax(dim=-1) == labels).sum()
        )
        for alpha, beta, gamma in itertools.product(*grids.values())
    }
    best = next(key for key, count in hits.items() if count == max(hits.values()))
    assert search_three(text, affinity, apart, y, labels, **grids) == best


def test_sums_of_divergences_are_those_of_each_pair() -> None:
    text, keys, x, y = units(4), units(9), units(6), torch.randint(3, (9,))  # class 3 has no key
    logs, key_logs = (class_logs(each, text, TEMPERATURE) for each in (x, keys))
    pairs = F.kl_div((key_logs - np.log(4))[None], (x @ text.T / 0.5).softmax(-1)[:, None], reduction="none").sum(-1)
    torch.testing.assert_close(divergences(logs, key_logs), pairs, rtol=1e-4, atol=1e-6)
    wanted = -(3.5 * pairs - 0.2) @ F.one_hot(y, 4).float()
    torch.testing.assert_close(divergence_votes(logs, key_logs, y, 3.5, -0.2), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted[:, 3] == 0).all()


def test_rescaled_divergences_have_the_range_of_the_cosines() -> None:
    apart, cosines = torch.rand(5, 7), torch.rand(5, 7) - 0.5
    slope, offset = rescaling(apart, cosines)
    torch.testing.assert_close(torch.stack((slope * apart + offset).aminmax()), torch.stack(cosines.aminmax()))
    assert rescaling(torch.zeros(2, 2), cosines) == (0.0, float(cosines.min()))  # one class: no divergence


def test_a_prediction_does_not_hang_on_the_other_rows() -> None:
    probe = TipX(units(4).numpy()).fit(units(16).numpy(), np.arange(16) % 4, units(8).numpy(), np.arange(8) % 4)
    query = units(20).numpy()
    alone = np.concatenate([probe.decision_function(row[None]) for row in query])
    np.testing.assert_allclose(probe.decision_function(query), alone, rtol=1e-4)


def test_what_is_given_is_not_chosen() -> None:
    x, y = units(16).numpy(), np.arange(16) % 4
    probe = TipX(units(4).numpy(), beta=3.0).fit(x, y, units(8).numpy(), np.arange(8) % 4)
    assert probe.choices_.keys() == {"alpha", "gamma"} and probe.classifier_.beta == 3
    unchosen = TipX(units(4).numpy(), gamma=2.0).fit(x, y)
    assert unchosen.choices_ == {} and unchosen.unchosen == "alpha 1.17, beta 1 and gamma 2"
    values = unchosen.classifier_.values()
    assert [values[name] for name in ("alpha", "beta", "gamma")] == [1.17, 1, 2]


def test_tasks_have_distributions_of_their_own() -> None:
    """A joined classifier's scores of a task are those of that task alone, of some of its classes too."""
    parts = [TipX(units(count).numpy()).fit(units(9).numpy(), np.arange(9) % count).classifier_ for count in (2, 3)]
    joined, query = TipX.join(parts), units(7)
    assert isinstance(joined, JoinedClassifier) and isinstance(TipX.join(parts[:1]), TipXClassifier)
    assert torch.equal(joined.scores(query, slice(2, 5)), parts[1].scores(query))
    assert torch.equal(joined.scores(query, slice(3, 5)), parts[1].scores(query)[:, 1:])
