"""One run in training: reproducible, resumable, and it learns."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fakes import Killed, ResidualMethod, learned, new_state, raise_at, rows_of

from cptlite.errors import CptliteError, DataError
from cptlite.methods.base import FewShotRows
from cptlite.methods.batches import Batch
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.sampling import ClassSampler

RECIPE = Recipe(epochs=3, batch_size=8)
SGD = Recipe(epochs=4, batch_size=8, lr=0.05)
SOME_CLASSES = Recipe(epochs=4, batch_size=8, lr=0.05, class_fraction=0.3)
ADAMW = Recipe(epochs=4, batch_size=8, optimizer="adamw", lr=0.01)


def test_same_seed_same_bytes() -> None:
    results = []
    for seed in (1, 1, 2):
        state = new_state(RECIPE, rows_of(20))
        state.generator.manual_seed(seed)  # all start alike
        train(ResidualMethod(), [state])
        results.append(learned(state))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_run_is_the_loop_that_anyone_would_write(recipe: Recipe, fraction: float) -> None:
    recipe = Recipe(**{**vars(recipe), "class_fraction": fraction})
    method, rows = ResidualMethod(), rows_of(20)
    state = new_state(recipe, rows)
    train(method, [state])

    learnables = method.start(torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    sampler = ClassSampler(method.problem.task_sizes, fraction, 8, torch.device("cpu"))
    if recipe.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(learnables.values(), momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.AdamW(learnables.values(), betas=(0.9, 0.999), weight_decay=5e-4)
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate(epoch)
        order = torch.randperm(20, generator=draws)
        views = torch.randint(1, 3, (20,), generator=draws)
        for batch in (order[:8], order[8:16]):
            labels = rows.labels[batch]
            classes = sampler.draw(labels, draws)[None] if fraction < 1 else None
            stacked = {name: value[None] for name, value in learnables.items()}
            optimizer.zero_grad()
            images = rows.features[batch, views[batch]][None]
            method.loss(stacked, Batch(images=images, labels=labels[None], classes=classes)).backward()
            optimizer.step()
    assert learned(state) == b"".join(value.detach().numpy().tobytes() for value in learnables.values())


def test_loss_falls() -> None:
    losses: list[float] = []
    recipe = Recipe(epochs=12, batch_size=20, lr=0.05, warmup_epochs=0)
    train(ResidualMethod(), [new_state(recipe, rows_of(20), on_epoch=lambda _, loss: losses.append(loss))])
    assert len(losses) == 12
    assert losses[-1] < 0.9 * losses[0]


def test_learnables_are_stepped_in_place_and_frozen_ones_are_left() -> None:
    state = new_state(SGD, rows_of(20))
    before = {name: value.detach().clone() for name, value in state.learnables.items()}
    homes = {name: value.data_ptr() for name, value in state.learnables.items()}
    train(ResidualMethod(), [state])
    assert homes == {name: value.data_ptr() for name, value in state.learnables.items()}
    assert not torch.equal(state.learnables["residuals"], before["residuals"])
    assert torch.equal(state.learnables["shift"], before["shift"])
    assert state.learnables["shift"].grad is None


def test_only_random_views_are_seen_when_there_are_any() -> None:
    rows = rows_of(20)
    rows.features[:, 0] = torch.nan
    train(ResidualMethod(), [new_state(RECIPE, rows)])
    plain = FewShotRows(features=rows.features[:, :1], labels=rows.labels)
    with pytest.raises(CptliteError):
        train(ResidualMethod(), [new_state(RECIPE, plain)])


@pytest.mark.parametrize(("batch_size", "steps"), [(8, 2), (20, 1), (64, 1)])
def test_partial_batch_is_dropped_unless_it_is_the_only_one(batch_size: int, steps: int, tmp_path: Path) -> None:
    state = new_state(Recipe(epochs=2, batch_size=batch_size), rows_of(20), folder=tmp_path)
    assert state.steps_left == 2 * steps
    train(ResidualMethod(), [state])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2 * steps))
    assert [line["epoch"] for line in lines] == [0] * steps + [1] * steps
    assert [line["lr"] for line in lines[::steps]] == [1e-5, 0.002]
    assert lines[-1]["seconds"] == round(state.seconds, 3)
    assert (state.epochs_done, state.steps_done, state.steps_left) == (2, 2 * steps, 0)
    assert state.graph == ""  # nothing is recorded on a processor


@pytest.mark.parametrize("recipe", [SGD, ADAMW, SOME_CLASSES], ids=["sgd", "adamw", "some classes"])
def test_interrupted_training_ends_with_the_same_bytes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    whole = new_state(recipe, rows_of(20))
    train(ResidualMethod(), [whole])
    stopped = new_state(recipe, rows_of(20), folder=tmp_path, on_epoch=raise_at(3))
    with pytest.raises(Killed):
        train(ResidualMethod(), [stopped])
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "half a li')
    epochs: list[int] = []
    resumed = new_state(recipe, rows_of(20), folder=tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert (resumed.epochs_done, resumed.seconds) == (3, stopped.seconds)
    train(ResidualMethod(), [resumed])
    assert epochs == [4]
    assert learned(resumed) == learned(whole)
    assert resumed.seconds > stopped.seconds
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == list(range(8))


def test_a_training_that_ended_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    done = new_state(RECIPE, rows_of(20), folder=tmp_path)
    train(ResidualMethod(), [done])
    again = new_state(RECIPE, rows_of(20), folder=tmp_path)
    assert again.finished
    train(ResidualMethod(), [again])
    assert learned(again) == learned(done)


def test_a_damaged_checkpoint_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    train(ResidualMethod(), [new_state(RECIPE, rows_of(20), folder=tmp_path)])
    checkpoint = tmp_path / "checkpoint.pt"
    content = checkpoint.read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(DataError, match="give --force"):
            new_state(RECIPE, rows_of(20), folder=tmp_path)


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_of_other_learnables_or_with_code_is_a_data_error(tmp_path: Path) -> None:
    state = new_state(RECIPE, rows_of(20))
    content = state.state_dict()
    wrong = (
        {**content, "learnables": {**content["learnables"], "residuals": torch.ones(1)}},
        {**content, "learnables": {"shift": content["learnables"]["shift"]}},
        {name: value for name, value in content.items() if name != "generator"},
        {**content, "more": Code(tmp_path / "made")},
    )
    for each in wrong:
        torch.save(each, tmp_path / "checkpoint.pt")
        with pytest.raises(DataError, match="give --force"):
            new_state(RECIPE, rows_of(20), folder=tmp_path)
    assert not (tmp_path / "made").exists()
    torch.save(content, tmp_path / "checkpoint.pt")
    assert new_state(RECIPE, rows_of(20), seed=2, folder=tmp_path).epochs_done == 0


def test_diverged_loss_is_said() -> None:
    rows = rows_of(20)
    state = new_state(RECIPE, rows, on_epoch=lambda *_: rows.features.fill_(torch.nan))
    with pytest.raises(
        CptliteError, match=r"diverged: .* being a number in epoch 2 at a learning rate of 0.002: .*smaller --lr"
    ):
        train(ResidualMethod(), [state])


def test_a_loss_that_never_was_a_number_is_not_blamed_on_the_learning_rate() -> None:
    rows = rows_of(20)
    rows.features[:, 1:] = torch.nan
    with pytest.raises(CptliteError, match="not a number in the first step, before anything was learned"):
        train(ResidualMethod(), [new_state(Recipe(epochs=1, batch_size=20), rows)])
