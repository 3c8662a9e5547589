"""Every method that takes steps, on tensors that claim a GPU: one place, nothing waited for, and fit to be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_cuda import DEVICE, HostWaitsError, HostWorkError, MixedDevicesError, Pretended, moved
from test_every_method import METHOD_NAMES, make_method, rows_for
from torch import Tensor
from training_fakes import TASKS, ResidualMethod, new_state, rows_of

from cptlite.backbones import Backbone, load_backbone
from cptlite.errors import CptliteError
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.methods.prompts.softcpt import VARIANTS
from cptlite.methods.table import find_method
from cptlite.text.encoder import TextEncoder
from cptlite.training.checkpoint import read_log
from cptlite.training.loop import train
from cptlite.training.recipe import FULL, RECIPES, Recipe
from cptlite.training.state import TrainingState

CASES = [(name, {}) for name in METHOD_NAMES if name != "softcpt"]
CASES += [("softcpt", {"variant": variant}) for variant in VARIANTS]
PAPER_RECIPE = Recipe(epochs=1, batch_size=2, lr=0.05)
SOME_CLASSES = Recipe(epochs=1, batch_size=1, class_fraction=0.5)  # few enough to encode the picked ones alone
FULL_RECIPE = Recipe(recipe=FULL, **{**RECIPES[FULL], "epochs": 4}).at(16)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu", linear_backend="torch")


@pytest.fixture
def on_gpu(backbone: Backbone, cuda: Pretended) -> Backbone:
    return moved(backbone)


def there(rows: FewShotRows) -> FewShotRows:
    return FewShotRows(features=rows.features.to(DEVICE), labels=rows.labels.to(DEVICE))


def states_of(method: PromptMethod, name: str, recipe: Recipe, runs: int) -> list[TrainingState]:
    task_sizes = method.problem.task_sizes
    found = []
    for seed in range(runs):
        learnables = method.start(torch.Generator().manual_seed(seed))
        rows = there(rows_for(name, 3 if recipe.batch_size == 1 else 7))
        found.append(TrainingState(learnables, rows, recipe, seed=seed, task_sizes=task_sizes))
    return found


def train_there(cuda: Pretended, method: PromptMethod, states: list[TrainingState], **given: Any) -> None:
    with cuda.step():
        train(method, states, **given)
    assert all(value.device == DEVICE for state in states for value in state.learnables.values())


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_of_a_method(
    cuda: Pretended,
    on_gpu: Backbone,
    name: str,
    options: dict[str, Any],
    runs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cptlite.training.graph.LEAST_REPLAYS", 2)
    method = make_method(on_gpu, name, runs, **options)
    for recipe in (PAPER_RECIPE if runs == 1 else FULL_RECIPE, SOME_CLASSES):
        states = states_of(method, name, recipe, runs)
        train_there(cuda, method, states)
        assert {state.graph for state in states} == {"recorded"}


@pytest.mark.parametrize(("path", "memory"), [("plain", 8.0), ("fused", 5e-4)])  # and in chunks, encoded once more
def test_steps_of_the_slow_twin_and_in_chunks(
    cuda: Pretended, on_gpu: Backbone, path: str, memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.graph.LEAST_REPLAYS", 2)
    text = TextEncoder(on_gpu.text_tower, on_gpu.tokenizer, path, memory=memory)
    entry = find_method("softcpt")
    method = entry.method(Problem(tasks=TASKS, text=text), entry.new_options(context_length=4, variant="cats"))
    for recipe in (FULL_RECIPE, SOME_CLASSES):
        states = states_of(method, "softcpt", recipe, 1)
        train_there(cuda, method, states)
        assert states[0].graph == "recorded"


class Planted(ResidualMethod):
    """Does something in a step that a GPU would not have; on a place of its own in the forward or the backward."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__(device=str(DEVICE))
        self.act = act

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        return self.act(super().logits(learnables, images))


PLANTED: dict[str, tuple[type[AssertionError], Callable[[Tensor], Tensor]]] = {
    "a look": (HostWaitsError, lambda scores: scores * (1 if scores.sum().item() else 2)),
    "a way over the host": (HostWaitsError, lambda scores: scores.cpu().to(DEVICE, non_blocking=True)),
    "a tensor of the host": (MixedDevicesError, lambda scores: scores + torch.zeros(scores.shape[-1])),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_in_a_step_is_caught(cuda: Pretended, name: str) -> None:
    kind, act = PLANTED[name]
    method = Planted(lambda scores: scores)
    state = new_state(PAPER_RECIPE, there(rows_of(7)), method=method)
    train_there(cuda, method, [state], cuda_graphs=False)
    method.act = act
    with pytest.raises(kind):
        train_there(cuda, method, [new_state(PAPER_RECIPE, there(rows_of(7)), method=method)], cuda_graphs=False)


@pytest.mark.parametrize("name", ["a look", "a way over the host"])
def test_what_is_planted_in_a_text_encoder_is_caught(
    cuda: Pretended, on_gpu: Backbone, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, (kind, act) = make_method(on_gpu, "coop-ca"), PLANTED[name]
    encode = method.class_weights
    monkeypatch.setattr(method, "class_weights", lambda learnables: act(encode(learnables)))
    with pytest.raises((kind, HostWorkError)):
        train_there(cuda, method, states_of(method, "coop-ca", FULL_RECIPE, 1))


def test_host_work_within_a_capture_is_caught(cuda: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.training.graph.LEAST_REPLAYS", 2)
    draws = torch.Generator()
    method = Planted(lambda scores: scores + torch.rand(1, generator=draws).to(DEVICE, non_blocking=True))
    train_there(cuda, method, [new_state(PAPER_RECIPE, there(rows_of(7)), method=method)], cuda_graphs=False)
    with pytest.raises(HostWorkError):
        train_there(cuda, method, [new_state(PAPER_RECIPE, there(rows_of(7)), method=method)])


def noting() -> tuple[list[Any], Callable[[int, float], None]]:
    """A list, and what adds to it what is told of an epoch."""
    notes: list[Any] = []
    return notes, lambda epoch, loss: notes.append((epoch, loss))


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder)]


@pytest.mark.parametrize("recipe", [PAPER_RECIPE, FULL_RECIPE], ids=["paper", "full"])
def test_a_gpu_is_read_once_in_a_while_and_logs_the_same(
    cuda: Pretended, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[Any]] = {}
    learned_there: dict[str, Tensor] = {}
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    for place, seconds in {"cpu": 60.0, "often": 0.0, "seldom": 60.0}.items():
        monkeypatch.setattr("cptlite.training.state.READ_SECONDS", seconds)
        device = "cpu" if place == "cpu" else str(DEVICE)
        rows = rows_of(7) if place == "cpu" else there(rows_of(7))
        method, before = ResidualMethod(device=device), cuda.waits.count("tolist")
        told[place], note = noting()
        state = new_state(recipe, rows, method=method, folder=tmp_path / place, on_epoch=note)
        train(method, [state], cuda_graphs=False)
        assert cuda.waits.count("tolist") - before == {"cpu": 0, "often": recipe.epochs, "seldom": 1}[place]
        learned_there[place] = state.learnables["residuals"].detach().cpu()
        assert torch.equal(learned_there[place], learned_there["cpu"])
        assert (tmp_path / place / "checkpoint.pt").exists()
    assert told["cpu"] == told["often"] == told["seldom"]
    assert [epoch for epoch, _ in told["cpu"]] == list(range(1, recipe.epochs + 1))
    assert lines_of(tmp_path / "cpu") == lines_of(tmp_path / "often") == lines_of(tmp_path / "seldom")


def test_a_run_killed_between_reads_goes_on_to_the_same_end(
    cuda: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    method, rows = ResidualMethod(device=str(DEVICE)), there(rows_of(7))
    whole = new_state(FULL_RECIPE, rows, method=method)
    train(method, [whole])
    stopped = new_state(FULL_RECIPE, rows, method=method, folder=tmp_path)
    for seconds in (0.0, 60.0):  # the second epoch is read and kept, the third is not read
        monkeypatch.setattr("cptlite.training.state.READ_SECONDS", seconds)
        for _ in range(2 if not seconds else 1):
            batch = stopped.next_batch()
            stacked = {name: value.detach()[None].requires_grad_() for name, value in stopped.learnables.items()}
            loss, gradients = method.gradients({**stacked, "shift": stacked["shift"].detach()}, batch)
            stopped.step({name: value[0] for name, value in gradients.items()}, loss[0])
    assert (stopped.epochs_done, len(read_log(tmp_path))) == (3, 2)
    resumed = new_state(FULL_RECIPE, rows, method=method, folder=tmp_path)
    assert resumed.epochs_done == 2
    train(method, [resumed])
    assert torch.equal(resumed.learnables["residuals"], whole.learnables["residuals"])
    assert len(read_log(tmp_path)) == FULL_RECIPE.epochs


def test_a_loss_that_is_no_number_is_said_with_its_epoch_and_the_ones_before_are_logged(
    cuda: Pretended, tmp_path: Path
) -> None:
    rows = there(rows_of(7))
    state = new_state(FULL_RECIPE, rows, method=ResidualMethod(device=str(DEVICE)), folder=tmp_path)
    with pytest.raises(CptliteError, match="in epoch 3 "):
        for loss in (1.0, 2.0, math.nan, 3.0):
            state.next_batch()
            state.step({}, torch.tensor(loss, device=DEVICE))
    assert state.finished
    assert [line["loss"] for line in read_log(tmp_path)] == [1.0, 2.0]
