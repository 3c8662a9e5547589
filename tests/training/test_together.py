"""Runs trained as an axis of one forward end as they would have ended alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_training import make_method

from cptlite.backbones.clip import Backbone, load_backbone
from cptlite.methods.base import FewShotRows
from cptlite.methods.table import METHODS
from cptlite.training.loop import Recipe, TrainingRun, take_learnables, train_prompts, train_together

RECIPE = Recipe(epochs=4, batch_size=4, lr=0.05)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo")


def rows_of(count: int, name: str = "") -> FewShotRows:
    generator = torch.Generator().manual_seed(count)
    shape = (1, 7, 128) if name == "plot" else (3, 128)
    features = torch.randn(count, *shape, generator=generator).half()
    return FewShotRows(features=features, labels=torch.arange(count) % 5)


def new_run(backbone: Backbone, name: str, count: int, seed: int, folder: Path | None = None) -> TrainingRun:
    learnables = take_learnables(make_method(backbone, name))
    for index, value in enumerate(learnables.values()):
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(10 * seed + index))
        value.data += 0.02 * noise
    return TrainingRun(learnables=learnables, rows=rows_of(count, name), seed=seed, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.prompts])
def test_together_equals_alone(backbone: Backbone, name: str) -> None:
    # One with another number of steps each epoch, which leaves the others early, and two with less than a batch.
    sizes = {1: 3, 2: 5, 3: 11, 4: 11, 5: 3}
    together = [new_run(backbone, name, count, seed) for seed, count in sizes.items()]
    train_together(make_method(backbone, name), together, RECIPE)
    for run, (seed, count) in zip(together, sizes.items(), strict=True):
        alone = new_run(backbone, name, count, seed)
        start = {key: value.detach().clone() for key, value in alone.learnables.items()}
        train_together(make_method(backbone, name), [alone], RECIPE)
        for key, value in alone.learnables.items():
            moved = (value.detach() - start[key]).abs().max()
            assert moved > 0
            torch.testing.assert_close(run.learnables[key], value, rtol=1e-4, atol=1e-4 * float(moved))


def test_a_run_stopped_among_others_goes_on_alone(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)

    class Killed(BaseException):
        pass

    def kill(epoch: int, _: float) -> None:
        if epoch == 3:
            raise Killed

    runs = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        runs.append(new_run(backbone, "softcpt", 11, seed, folder))
    runs[1].on_epoch = kill
    with pytest.raises(Killed):
        train_together(make_method(backbone, "softcpt"), runs, RECIPE)
    resumed = new_run(backbone, "softcpt", 11, 2, tmp_path / "2")
    train_together(make_method(backbone, "softcpt"), [resumed], RECIPE)
    whole = new_run(backbone, "softcpt", 11, 2)
    train_together(make_method(backbone, "softcpt"), [whole], RECIPE)
    for key, value in whole.learnables.items():
        torch.testing.assert_close(resumed.learnables[key], value, rtol=1e-4, atol=1e-5)


def test_one_run_is_train_prompts(backbone: Backbone) -> None:
    alone, method = new_run(backbone, "softcpt", 11, 1), make_method(backbone, "softcpt")
    method.load_state_dict(alone.learnables)
    train_together(make_method(backbone, "softcpt"), [alone], RECIPE)
    train_prompts(method, rows_of(11), RECIPE, seed=1)
    for name, value in method.named_parameters():
        assert torch.equal(value, alone.learnables[name])
