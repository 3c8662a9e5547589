"""TeS's heads but for their steps, which tests/test_parity_neighbours.py holds: start, labels, batches, the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cptlite.methods.probes.tes_heads import RATES, Heads, TeSHeads, _batches, tes_loss


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng, y = np.random.default_rng(seed), np.arange(count) % 3
    return 3 * np.eye(3, 10)[y] + rng.normal(size=(count, 10)), y, np.random.default_rng(7).normal(size=(3, 10))


def test_the_start_is_pytorch_s_own_and_drawn_from_the_generator() -> None:
    state = torch.get_rng_state()
    one, two = (Heads(16, 8, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, value), other in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(value, other)
        if not name.startswith("projection_head.1"):
            assert 0.1 < value.abs().max() <= 0.25, name


def test_labels_are_softened_and_no_gradient_goes_through_them() -> None:
    torch.manual_seed(0)
    heads, text = Heads(10, 10, 3), F.normalize(torch.randn(3, 10), dim=-1)
    x, y = torch.randn(6, 10), torch.arange(6) % 3
    scores, projected = heads(x)
    by_text = (projected @ text.T / 0.03).softmax(dim=-1)
    wanted = -(scores.log_softmax(dim=-1) * (0.4 * by_text + 0.6 * torch.eye(3)[y])).sum(dim=-1).mean()
    torch.testing.assert_close(tes_loss(heads, x, y, text, 0.4, 0.0), wanted)
    tes_loss(heads, x, y, text, 0.4, 0.0).backward()
    assert all(not value.grad.any() for value in heads.projection_head.parameters() if value.grad is not None)


@pytest.mark.parametrize(("rows", "sizes"), [(2, [2]), (256, [256]), (257, [256]), (258, [256, 2])])
def test_no_batch_has_a_single_row(rows: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in _batches(rows, None)] == sizes


def test_the_rate_is_the_first_best_on_validation_rows() -> None:
    (x, y, text), (x_val, y_val, _) = draw(30), draw(90, seed=1)
    probe = TeSHeads(text, epochs=20, random_state=0).fit(x, y, x_val, y_val)
    rate = probe.choices_["rate"]
    assert rate in RATES and (probe.predict(x_val) == y_val).mean() > 0.8
    assert TeSHeads(text, epochs=2, rate=0.5).fit(x, y, x_val, y_val).choices_ == {}
    assert TeSHeads(text, epochs=2).fit(x, y).choices_ == {}
