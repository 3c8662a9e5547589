"""APE-T beside what the recordings show: what is learned, scores of its classifier, what is given."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from cptlite.methods.probes.ape_t import APET, Refinement

DIM = 12


def units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, DIM), dim=-1)


def test_the_residual_moves_its_class_in_its_channels_alone() -> None:
    text, keys, y = units(3), units(4), torch.tensor([0, 2, 0, 0])
    refined = Refinement.begin(text=text, keys=keys, y=y, channels=torch.tensor([7, 2]), scale=10.0)
    refined.residual = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    moved, moved_keys = refined.moved()
    wanted = torch.zeros(3, DIM)
    wanted[0, 7], wanted[0, 2], wanted[2, 7], wanted[2, 2] = 1, 2, 3, 4
    torch.testing.assert_close(moved - text, wanted)
    torch.testing.assert_close(moved_keys - keys, wanted[y])


def test_training_fits_rows_that_texts_mistake() -> None:
    """Texts are those of other classes, and shots are unequal, one class without any."""
    corners = torch.eye(4, DIM)
    y = torch.tensor([0, 0, 0, 0, 1, 2, 2]).repeat(3)
    x = F.normalize(corners[y] + 0.1 * torch.randn(len(y), DIM), dim=-1)
    text = F.normalize(corners[[1, 2, 0, 3]] + corners, dim=-1)
    given = {"alpha": 0.0, "beta": 1.0, "logit_scale": np.log(10), "classes": range(4), "random_state": 1}
    before, after = (
        APET(text.numpy(), epochs=epochs, lr=0.05, **given).fit(x.numpy(), y.numpy()) for epochs in (1, 60)
    )
    ahead = [each.predict_proba(x.numpy())[np.arange(len(y)), y].mean() for each in (before, after)]
    assert ahead[1] > ahead[0] + 0.1
    assert not torch.equal(after.classifier_.weights[1], text[1])
    assert after.classifier_.key_labels.bincount(minlength=4).tolist() == [12, 3, 6, 0]


def test_what_is_given_is_not_chosen() -> None:
    x, y = units(16).numpy(), np.arange(16) % 4
    probe = APET(units(4).numpy(), alpha=0.5, epochs=1).fit(x, y, units(8).numpy(), np.arange(8) % 4)
    assert probe.choices_.keys() == {"beta"} and probe.classifier_.alpha == 0.5
    assert APET(units(4).numpy(), alpha=0.5).unchosen == "alpha 0.5 and beta 1"
    assert not APET(units(4).numpy(), alpha=0.5, beta=2).chooses


def test_the_classifier_scores_as_what_was_trained() -> None:
    text, x, y, query = units(3), units(9), torch.arange(9) % 3, units(5)
    probe = APET(text.numpy(), alpha=2.0, beta=3.0, epochs=4, lr=0.1, keep=0.5, random_state=0)
    found = probe.fit(x.numpy(), y.numpy()).classifier_
    moved = (found.weights - text).abs().sum(dim=0) > 1e-6
    assert moved.sum() == 6  # half of the channels
    near = (3 * (query @ found.keys.T - 1)).exp() * found.key_weights @ F.one_hot(y, 3).float()
    wanted = 100 * query @ found.weights.T + 2 * near
    np.testing.assert_allclose(probe.decision_function(query.numpy()), wanted, rtol=1e-4, atol=1e-4)
