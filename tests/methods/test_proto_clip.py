"""Proto-CLIP's choice of alpha and beta, by a loop, and a class that lacks images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.special import softmax

from cptlite.errors import UsageError
from cptlite.methods.probes.proto_clip import ALPHAS, BETAS, ProtoCLIP, ProtoCLIPOptions


def draw(seed: int, count: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, 8))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_hand(x: np.ndarray, images: np.ndarray, text: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    shares = [softmax(-beta * ((x[:, None] - each) ** 2).sum(-1), axis=1) for each in (images, text)]
    return alpha * shares[0] + (1 - alpha) * shares[1]


def test_alpha_and_beta_are_the_first_best_of_the_grid() -> None:
    assert len(ALPHAS) == 11 and len(BETAS) == 29 and BETAS[:2] == (0.1, 0.2) and BETAS[-1] == 20
    text, x, x_val = draw(0, 4), draw(1, 12), draw(2, 30)
    y, y_val = np.arange(12) % 4, np.arange(30) % 4
    probe = ProtoCLIP(text).fit(x, y, x_val, y_val)
    means = np.stack([x[y == k].mean(axis=0) for k in range(4)])
    images = means / np.linalg.norm(means, axis=1, keepdims=True)
    hits = {
        pair: (by_hand(x_val, images, text, *pair).argmax(axis=1) == y_val).sum() for pair in product(ALPHAS, BETAS)
    }
    best = max(hits, key=lambda pair: hits[pair])
    assert probe.choices_ == {"alpha": best[0], "beta": best[1]} and 0 < best[0] < 1
    np.testing.assert_allclose(probe.predict_proba(x_val), by_hand(x_val, images, text, *best), rtol=1e-4)
    assert ProtoCLIP(text, alpha=0.2, beta=3.0).fit(x, y, x_val, y_val).choices_ == {}
    assert ProtoCLIP(text, alpha=0.2).fit(x, y, x_val, y_val).choices_.keys() == {"beta"}


def test_a_class_without_images_is_known_by_its_text_alone() -> None:
    text, x, y = draw(0, 3), draw(1, 8), np.arange(8) % 2
    found = ProtoCLIP(text, classes=[0, 1, 2], alpha=0.4, beta=2.0).fit(x, y).predict_proba(draw(2, 5))
    means = np.stack([x[y == k].mean(axis=0) for k in range(2)])
    images = means / np.linalg.norm(means, axis=1, keepdims=True)
    shares = np.pad(by_hand(draw(2, 5), images, images, 1, 2.0), ((0, 0), (0, 1)))
    np.testing.assert_allclose(found, 0.4 * shares + 0.6 * by_hand(draw(2, 5), text, text, 0, 2.0), rtol=1e-4)


def test_shares_are_at_most_one() -> None:
    with pytest.raises(UsageError, match="alpha must be from 0 to 1, got 1.5"):
        ProtoCLIPOptions(alpha=1.5)
