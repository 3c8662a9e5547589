"""Runs trained as an axis of one forward end as they would have ended alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from training_fakes import Killed, ResidualMethod, learned, new_state, raise_at, rows_of

from cptlite.training.loop import train
from cptlite.training.recipe import Recipe

RECIPE = Recipe(epochs=4, batch_size=4, lr=0.05)
SIZES = {1: 3, 2: 5, 3: 11, 4: 11, 5: 3}  # rows of each seed: two with less than a batch, two with more steps an epoch


class Watched(ResidualMethod):
    """Notes the shape of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape[:2]))
        return super().logits(learnables, images)


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_together_equals_alone(fraction: float) -> None:
    recipe = Recipe(epochs=4, batch_size=4, lr=0.05, class_fraction=fraction)
    together = [new_state(recipe, rows_of(count), seed) for seed, count in SIZES.items()]
    train(ResidualMethod(), together)
    for state, (seed, count) in zip(together, SIZES.items(), strict=True):
        alone = new_state(recipe, rows_of(count), seed)
        start = alone.learnables["residuals"].detach().clone()
        train(ResidualMethod(), [alone])
        moved = float((alone.learnables["residuals"].detach() - start).abs().max())
        assert moved > 0
        for name, value in alone.learnables.items():
            torch.testing.assert_close(state.learnables[name], value, rtol=1e-4, atol=1e-4 * moved)


def test_a_run_that_is_finished_leaves_its_group() -> None:
    method = Watched()
    train(method, [new_state(RECIPE, rows_of(count), seed) for seed, count in SIZES.items()])
    # Epochs of one step each: the two of a batch of three rows; then one step an epoch beside two, which go on.
    assert method.shapes == [(2, 3)] * 4 + [(3, 4)] * 4 + [(2, 4)] * 4


def test_a_run_stopped_among_others_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    whole = [new_state(RECIPE, rows_of(11), seed) for seed in (1, 2)]
    train(ResidualMethod(), whole)
    stopped = [new_state(RECIPE, rows_of(11), 1), new_state(RECIPE, rows_of(11), 2, folder=tmp_path)]
    stopped[1].on_epoch = raise_at(3)
    with pytest.raises(Killed):
        train(ResidualMethod(), stopped)
    resumed = new_state(RECIPE, rows_of(11), 2, folder=tmp_path)
    assert resumed.epochs_done == 3
    train(ResidualMethod(), [resumed])
    assert learned(resumed) == learned(whole[1])


def test_seconds_are_shared_among_the_runs_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr("cptlite.training.state.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    together = [new_state(RECIPE, rows_of(4), seed) for seed in (1, 2)]
    train(ResidualMethod(), together)
    # An epoch is one step; the clock is read twice in each run's epoch, and ticks twice between.
    assert [state.seconds for state in together] == [4 * 2 / 2] * 2
