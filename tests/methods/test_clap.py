"""CLAP and ZS-LP but for their steps, which tests/test_parity_neighbours.py holds: start, batches, rates, pull."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.methods.probes.clap import CLAP, ZSLP, _batches, _rate, multipliers
from cptlite.training.recipe import Recipe


def rows(classes: int = 3, images: int = 4, views: int = 2, dim: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.arange(classes).repeat(images)
    corners = 3 * np.eye(classes, dim)
    x = corners[labels][:, None] + np.random.default_rng(0).normal(size=(len(labels), views, dim))
    text = 5 * np.random.default_rng(1).normal(size=(classes, dim)) + 10 * corners
    return x, labels, text


def test_rates_are_those_of_its_recipe() -> None:
    recipe = Recipe(lr=0.1, epochs=300)
    assert [_rate(epoch, 300) for epoch in range(300)] == pytest.approx([recipe.learning_rate(e) for e in range(300)])


@pytest.mark.parametrize(("images", "views", "sizes"), [(4, 3, [12]), (100, 20, [256]), (600, 2, [256, 256])])
def test_an_epoch_is_about_one_pass_over_the_images(images: int, views: int, sizes: list[int]) -> None:
    drawn = list(_batches(images, images * views, torch.Generator().manual_seed(0)))
    assert list(map(len, drawn)) == sizes
    assert len(torch.cat(drawn).unique()) == sum(sizes) and torch.cat(drawn).max() < images * views


def test_it_starts_from_zero_shot_and_learns_the_rows() -> None:
    x, y, text = rows()
    started, learned = ZSLP(text, epochs=1).fit(x, y), ZSLP(text, epochs=300).fit(x, y)
    units = x[:, 0] / np.linalg.norm(x[:, 0], axis=1, keepdims=True)
    zero_shot = 100 * units @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T
    np.testing.assert_allclose(started.decision_function(x[:, 0]), zero_shot, atol=1e-2)

    def loss(probe: ZSLP) -> float:
        return float(F.cross_entropy(torch.from_numpy(probe.decision_function(x[:, 0])), torch.from_numpy(y)))

    assert loss(learned) < loss(started) / 2 and learned.choices_ == {}


def test_the_length_of_the_start_is_part_of_the_method() -> None:
    """At unit length the same rate turns prototypes further."""
    x, y, text = rows()
    units = text / np.linalg.norm(text, axis=1, keepdims=True)
    moved = []
    for start in (text, units):
        weights = ZSLP(start, epochs=20, random_state=0).fit(x, y).classifier_.tensors()["weights"].numpy()
        moved.append(np.abs(weights - units).max())
    assert moved[1] > 2 * moved[0]


def test_a_pull_keeps_prototypes_nearer_to_their_start() -> None:
    x, y, text = rows()
    units = F.normalize(torch.from_numpy(text), dim=-1)
    far = {}
    for name, probe in {"none": ZSLP(text, random_state=0), "l2": CLAP(text, random_state=0)}.items():
        far[name] = float((probe.fit(x, y).classifier_.tensors()["weights"] - units).norm())
    assert 0 < far["l2"] < far["none"]


def test_a_class_without_rows_has_no_multiplier() -> None:
    x, y, text = rows()
    kept = y != 1
    units = F.normalize(torch.from_numpy(x[kept, 0]), dim=-1)
    for constraint in ("l2", "corrected", "adaptative"):
        found = multipliers(units, torch.from_numpy(y[kept]), torch.from_numpy(text), 100, constraint)
        assert found[1] == 0 and found[0] > 0 and math.isfinite(float(found.sum()))
    probe = CLAP(text, classes=[0, 1, 2], epochs=5).fit(x[kept], y[kept])
    assert np.isfinite(probe.decision_function(x[:, 0])).all()
