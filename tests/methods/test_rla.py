"""RLA but for its steps, which tests/test_parity_neighbours.py holds: several rates at once, the choice, the views."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cptlite.methods.probes.projection import RATES, choose_map, train_maps
from cptlite.methods.probes.rla import RLA


def draw(count: int, views: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows around corners, and texts that mix these up in part."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = 4 * torch.eye(3, 10)[y][:, None] + torch.randn(count, views, 10, generator=generator)
    text = F.normalize(torch.eye(3, 10).roll(1, 0) + torch.eye(3, 10), dim=-1)
    return x, y, text


def test_rates_side_by_side_are_each_alone() -> None:
    x, y, text = draw(12, views=3)
    how: dict[str, Any] = {"scale": 20.0, "pull": 0.25, "epochs": 15}
    maps, losses = train_maps(x, y, torch.eye(10), text, rates=RATES, **how)
    for rate, each, loss in zip(RATES, maps, losses, strict=True):
        alone, own = train_maps(x, y, torch.eye(10), text, rates=(rate,), **how)
        torch.testing.assert_close(each, alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, own[0], rtol=1e-4, atol=1e-5)


def test_a_step_reads_the_view_after_the_one_before() -> None:
    """Step 0 reads view 1: of two views, one step does not look at the plain one."""
    x, y, text = draw(6, views=2)
    how: dict[str, Any] = {"scale": 20.0, "pull": 0.25, "rates": (0.01,)}
    other = torch.stack([torch.randn_like(x[:, 0]), x[:, 1]], dim=1)
    one, two = (train_maps(each, y, torch.eye(10), text, epochs=1, **how)[0] for each in (x, other))
    torch.testing.assert_close(one, two)
    one, two = (train_maps(each, y, torch.eye(10), text, epochs=2, **how)[0] for each in (x, other))
    assert not torch.allclose(one, two)


def test_the_rate_is_the_first_best_on_validation_rows() -> None:
    x, y, text = draw(12)
    x_val, y_val, _ = draw(60, seed=1)
    probe = RLA(text.numpy()).fit(x.numpy(), y.numpy(), x_val[:, 0].numpy(), y_val.numpy())
    hits = [
        (RLA(text.numpy(), rate=rate).fit(x.numpy(), y.numpy()).predict(x_val[:, 0].numpy()) == y_val.numpy()).sum()
        for rate in RATES
    ]
    assert probe.choices_ == {"rate": RATES[int(np.argmax(hits))]} and max(hits) > hits[0]
    assert RLA(text.numpy(), rate=0.01).fit(x.numpy(), y.numpy(), x_val[:, 0].numpy(), y_val.numpy()).choices_ == {}
    still = torch.eye(10).repeat(3, 1, 1)
    assert choose_map(still, x_val[:, 0], y_val, text) == 0


def test_a_strong_pull_leaves_the_identity() -> None:
    x, y, text = draw(12)
    how: dict[str, Any] = {"scale": 20.0, "rates": (0.01,), "epochs": 50}
    near, far = (train_maps(x, y, torch.eye(10), text, pull=pull, **how)[0] - torch.eye(10) for pull in (1e3, 0.0))
    assert near.abs().max() < 0.02 < far.abs().max()
