"""APE beside what the recordings show: classes of unequal shots, of none and alone, the search, what is given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.classifiers import votes
from cptlite.methods.probes import search
from cptlite.methods.probes.ape import APE
from cptlite.methods.probes.ape_channels import channel_criterion, class_means, num_channels, search_votes

DIM = 12


def units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, DIM), dim=-1)


def test_similarity_with_unequal_shots_is_the_mean_over_pairs_of_classes() -> None:
    """Of each pair of classes the mean over all pairs of their vectors; one class has no shot, one has three."""
    text, keys, y = units(3), units(4), torch.tensor([0, 2, 0, 0])
    vectors = [torch.cat([text[k : k + 1], keys[y == k]]) for k in range(3)]
    pairs = [(vectors[i][:, None] * vectors[j][None]).mean(dim=(0, 1)) for i, j in itertools.permutations(range(3), 2)]
    found = channel_criterion(class_means(text, keys, y), text, 0.3)
    wanted = 0.7 * text.var(dim=0) - 0.3 * torch.stack(pairs).mean(dim=0)
    torch.testing.assert_close(found, wanted)


def test_a_share_of_the_channels_is_one_at_least() -> None:
    assert [num_channels(share, 1024) for share in (0.78125, 1.0, 1e-9)] == [800, 1024, 1]


@pytest.mark.parametrize("held", [2**22, 50])
def test_the_search_is_the_one_over_every_combination(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "HELD", held)
    alphas, betas, weights = [0.5, 1.0, 8.0], [1.0, 5.0, 2.0], torch.rand(4, 9) + 0.5
    labels, y = torch.randint(4, (30,)), torch.randint(4, (9,))
    text, affinity = torch.randn(30, 4), units(30) @ units(9).T
    hits = {
        (alpha, beta, index): int(
            ((text + alpha * votes(affinity, y, beta, 4, weights[index])).argmax(dim=-1) == labels).sum()
        )
        for beta, alpha, index in itertools.product(betas, alphas, range(4))
    }
    best = next(key for key, count in hits.items() if count == max(hits.values()))
    assert search_votes(text, affinity, weights, y, labels, alphas=alphas, betas=betas) == best


def test_a_class_without_rows_and_a_single_class_are_scored() -> None:
    text, x = units(3).numpy(), units(5).numpy()
    probe = APE(text, classes=[0, 1, 2]).fit(x, [0, 0, 0, 2, 0])
    assert np.isfinite(probe.decision_function(units(7).numpy())).all()
    alone = APE(text[:1]).fit(x, [0] * 5)
    assert np.isfinite(alone.decision_function(x)).all() and (alone.predict(x) == 0).all()


def test_what_is_given_is_not_chosen() -> None:
    x, y = units(16).numpy(), np.arange(16) % 4
    probe = APE(units(4).numpy(), gamma=0.35, keep=0.5).fit(x, y, units(8).numpy(), np.arange(8) % 4)
    assert probe.choices_.keys() == {"alpha", "beta"} and len(probe.classifier_.channels) == 6
    unchosen = APE(units(4).numpy(), alpha=2.0).fit(x, y)
    assert unchosen.choices_ == {} and unchosen.unchosen == "alpha 2, beta 1 and gamma 0.1"
    assert (unchosen.classifier_.alpha, unchosen.classifier_.beta) == (2, 1)


def test_all_channels_and_no_gamma_are_tip_adapters_votes() -> None:
    text, x, y, query = units(4), units(16), torch.arange(16) % 4, units(6)
    probe = APE(text.numpy(), alpha=2.0, beta=3.0, gamma=0.0, keep=1.0).fit(x.numpy(), y.numpy())
    wanted = 100 * query @ text.T + 2 * votes(query @ x.T, y, 3.0, 4)
    np.testing.assert_allclose(probe.decision_function(query.numpy()), wanted, rtol=1e-4)
