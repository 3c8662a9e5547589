"""ProLIP but for its steps, which tests/test_parity_neighbours.py holds: where it starts, its bias, its shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.errors import UsageError
from cptlite.methods.probes.prolip import ProLIP
from cptlite.methods.probes.rla import RLA


def draw(count: int = 12, dim: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows before a projection to six dimensions, with texts, matrix and bias."""
    generator, y = torch.Generator().manual_seed(0), torch.arange(count) % 3
    x = 4 * torch.eye(3, dim)[y][:, None] + torch.randn(count, 2, dim, generator=generator)
    text, matrix = torch.randn(3, 6, generator=generator), torch.randn(dim, 6, generator=generator)
    return x.numpy(), y.numpy(), text.numpy(), matrix.numpy(), torch.randn(6, generator=generator).numpy()


def test_it_starts_from_the_towers_own_scores() -> None:
    """With a rate near 0 a score is that of the projected feature, bias included."""
    x, y, text, matrix, bias = draw()
    probe = ProLIP(text, projection=matrix, projection_bias=bias, rate=1e-12).fit(x, y)
    images = F.normalize(torch.from_numpy(x[:, 0] @ matrix + bias), dim=-1)
    wanted = 100 * images @ F.normalize(torch.from_numpy(text), dim=-1).T
    np.testing.assert_allclose(probe.decision_function(x[:, 0]), wanted, rtol=1e-4, atol=1e-3)


def test_it_learns_the_rows_and_leaves_the_bias() -> None:
    x, y, text, matrix, bias = draw()
    start, probe = (
        ProLIP(text, projection=matrix, projection_bias=bias, rate=rate).fit(x, y) for rate in (1e-12, 1e-2)
    )
    losses = [
        float(F.cross_entropy(torch.from_numpy(each.decision_function(x[:, 0])), torch.from_numpy(y)))
        for each in (start, probe)
    ]
    assert losses[1] < losses[0] / 2
    kept = probe.classifier_.tensors()
    assert np.array_equal(kept["bias"], bias) and not np.allclose(kept["matrix"], matrix, atol=1e-3)


def test_without_a_projection_it_is_rla_of_unit_length_rows() -> None:
    x, y, _, _, _ = draw()
    text, rows = np.eye(3, 10, dtype=np.float32), F.normalize(torch.from_numpy(x), dim=-1).numpy()
    one, other = (kind(text, rate=0.01, epochs=30).fit(rows, y) for kind in (ProLIP, RLA))
    np.testing.assert_allclose(one.decision_function(rows[:, 0]), other.decision_function(rows[:, 0]), rtol=1e-4)


def test_text_weights_have_the_joint_dimension() -> None:
    x, y, text, matrix, _ = draw()
    with pytest.raises(UsageError, match=r"wants text_weights of shape \(3, 6\) .* got \(3, 5\)"):
        ProLIP(text[:, :5], projection=matrix).fit(x, y)
