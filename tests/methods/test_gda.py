"""GDA where alpha is given, and where there is no covariance; tests/test_parity_neighbours.py has the recordings."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from neighbour_recordings import neighbour

from cptlite.methods.probes.gda import GDA


def test_an_alpha_that_is_given_is_used() -> None:
    recorded = neighbour("gda")
    rows, text = recorded["train_features"].transpose(1, 0, 2), recorded["clip_weights"].T
    val = recorded["val_features"], recorded["val_labels"]
    probe = GDA(text, alpha=0.0).fit(rows, recorded["train_labels"], *val)
    units = recorded["test_features"] / np.linalg.norm(recorded["test_features"], axis=1, keepdims=True)
    np.testing.assert_allclose(probe.decision_function(recorded["test_features"]), 100 * units @ text.T, rtol=1e-4)
    assert probe.choices_ == {}


def test_one_row_a_class_leaves_zero_shot() -> None:
    rows, text = torch.randn(4, 8).numpy(), F.normalize(torch.randn(4, 8), dim=-1).numpy()
    probe, query = GDA(text).fit(rows, np.arange(4)), torch.randn(6, 8).numpy()
    zero_shot = query @ text.T
    assert (probe.predict(query) == zero_shot.argmax(axis=1)).all()
