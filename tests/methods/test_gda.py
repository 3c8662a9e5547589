"""GDA against numbers recorded from the released code, and where there is no covariance."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.methods.probes.gda import GDA, gaussian_weights

FOLDER = Path(os.environ.get("CPTLITE_GOLDEN_DIR", Path(__file__).parents[1] / "golden")) / "neighbours"
TAG = os.environ.get("CPTLITE_GOLDEN_TAG", "dev")
CASES = [name for name in ("gda", "gda_small") if (FOLDER / f"{TAG}_{name}.npz").exists()]


@pytest.fixture(params=CASES)
def recorded(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{TAG}_{request.param}.npz") as arrays:
        described = json.loads((FOLDER / f"{TAG}_{request.param}.json").read_text())
        return {**arrays, "described": described}


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_there_are_recordings() -> None:
    assert "gda" in CASES


def test_weights_are_the_recorded_ones(recorded: dict[str, np.ndarray]) -> None:
    views = F.normalize(torch.from_numpy(recorded["train_features"]), dim=-1)  # (V, N, D)
    labels = torch.from_numpy(recorded["train_labels"]).repeat(len(views))
    weights, bias = gaussian_weights(views.flatten(0, 1), labels, recorded["clip_weights"].shape[1])
    assert_close(weights.T.numpy(), recorded["W"])
    assert_close(bias.numpy(), recorded["b"])


def test_the_chosen_alpha_and_the_scores_are_the_recorded_ones(recorded: dict[str, np.ndarray]) -> None:
    probe = GDA(recorded["clip_weights"].T)
    rows = recorded["train_features"].transpose(1, 0, 2)  # (N, V, D)
    probe.fit(rows, recorded["train_labels"], recorded["val_features"], recorded["val_labels"])
    assert probe.choices_ == {"alpha": pytest.approx(float(recorded["best_alpha"]))}
    assert_close(probe.decision_function(recorded["test_features"]), recorded["test_logits"])
    accuracy = 100 * (probe.predict(recorded["test_features"]) == recorded["test_labels"]).mean()
    assert accuracy == pytest.approx(recorded["described"]["test_acc"])


def test_an_alpha_that_is_given_is_used(recorded: dict[str, np.ndarray]) -> None:
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
