"""The loop on a small random CLIP: reproducible, resumable, and it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cptlite.backbones.clip import Backbone, load_backbone
from cptlite.datasets.types import Task
from cptlite.errors import CptliteError
from cptlite.methods.base import FewShotRows, Problem, PromptMethod, PromptOptions
from cptlite.methods.table import find_method
from cptlite.text.encoder import TextEncoder
from cptlite.training.loop import Recipe, train_prompts


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo")


@pytest.fixture
def rows() -> FewShotRows:
    return FewShotRows(features=torch.randn(20, 3, 128).half(), labels=torch.arange(20) % 5)


def make_method(backbone: Backbone, name: str = "coop-ca") -> PromptMethod:
    tasks: tuple[Task, ...] = (
        Task(id="a", name="animal", class_names=("cat", "dog"), template="a {}.", metric="acc1"),
        Task(id="b", name="fruit", class_names=("fig", "kiwi", "plum"), template="a {}.", metric="acc1"),
    )
    if name == "cocoop":  # one task at a time
        names = tasks[0].class_names + tasks[1].class_names
        tasks = (replace(tasks[0], class_names=names),)
    problem = Problem(tasks=tasks, text=TextEncoder(backbone.text_tower, backbone.tokenizer))
    torch.manual_seed(0)
    entry, variant = find_method(name)
    assert entry.prompts is not None
    return entry.prompts(problem, PromptOptions(context_length=4), variant)


def learned(method: PromptMethod) -> bytes:
    return b"".join(value.detach().numpy().tobytes() for value in method.parameters())


RECIPE = Recipe(epochs=3, batch_size=8)


def test_same_seed_same_bytes(backbone: Backbone, rows: FewShotRows) -> None:
    results = []
    for seed in (1, 1, 2):
        method = make_method(backbone, "softcpt")
        train_prompts(method, rows, RECIPE, seed=seed)
        results.append(learned(method))
    assert results[0] == results[1] != results[2]


def test_loss_falls(backbone: Backbone, rows: FewShotRows) -> None:
    losses: list[float] = []
    recipe = Recipe(epochs=12, batch_size=20, lr=0.05, warmup_epochs=0)
    train_prompts(make_method(backbone), rows, recipe, seed=1, on_epoch=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0]


def test_only_random_views_are_seen_when_there_are_any(backbone: Backbone, rows: FewShotRows) -> None:
    blind = FewShotRows(features=rows.features.clone(), labels=rows.labels)
    blind.features[:, 0] = torch.nan
    train_prompts(make_method(backbone), blind, RECIPE, seed=1)


def test_partial_batch_is_dropped_unless_it_is_the_only_one(
    backbone: Backbone, rows: FewShotRows, tmp_path: Path
) -> None:
    for batch_size, steps in ((8, 2), (20, 1), (64, 1)):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        train_prompts(make_method(backbone), rows, Recipe(epochs=2, batch_size=batch_size), seed=1, folder=folder)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(2 * steps))
        assert [line["lr"] for line in lines[::steps]] == [1e-5, 0.002]


def test_interrupted_training_ends_with_the_same_bytes(
    backbone: Backbone, rows: FewShotRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    whole = make_method(backbone)
    train_prompts(whole, rows, RECIPE, seed=1)

    class Killed(BaseException):
        pass

    def kill(epoch: int, _: float) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train_prompts(make_method(backbone), rows, RECIPE, seed=1, folder=tmp_path, on_epoch=kill)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "half a li')
    resumed = make_method(backbone)
    epochs: list[int] = []
    train_prompts(resumed, rows, RECIPE, seed=1, folder=tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [3]
    assert learned(resumed) == learned(whole)
    assert len([json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]) == 6


def test_diverged_loss_is_said(backbone: Backbone, rows: FewShotRows) -> None:
    rows.features[0] = torch.nan
    with pytest.raises(CptliteError, match="smaller --lr"):
        train_prompts(make_method(backbone), rows, Recipe(epochs=1, batch_size=20), seed=1)
