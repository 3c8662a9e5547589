"""Recording a step, with a capture that a processor can do: it is used where it pays and comes out the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training_fakes import ResidualMethod, learned, new_state, rows_of

from cptlite.methods.base import FewShotRows
from cptlite.methods.batches import Batch
from cptlite.training.graph import Gradients, Step
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

RECIPE = Recipe(epochs=15, batch_size=4, lr=0.05, class_fraction=0.5)
Captured = tuple[Callable[[], None], Gradients]
Capture = Callable[..., Captured]


def capture(step: Step, batch: Batch) -> Captured:
    """Stand in for a CUDA graph: every replay reads the same inputs and writes the same outputs."""
    losses, gradients = step(batch)

    def replay() -> None:
        new_losses, new_gradients = step(batch)
        losses.copy_(new_losses)
        for name, value in new_gradients.items():
            gradients[name].copy_(value)

    return replay, (losses, gradients)


def failing(*_: Any) -> Captured:
    raise RuntimeError("CUDA error: operation not permitted\nmore about it")


def silent(*_: Any) -> Captured:
    raise RuntimeError


def empty(*step: Any) -> Captured:
    """Capture nothing: what was computed at the capture stays."""
    _, outputs = capture(*step)
    return lambda: None, outputs


def wrong(*step: Any) -> Captured:
    """Get one gradient a little wrong."""
    replay, outputs = capture(*step)

    def replay_wrongly() -> None:
        replay()
        outputs[1]["residuals"].mul_(1.01)

    return replay_wrongly, outputs


def not_a_number(*step: Any) -> Captured:
    replay, outputs = capture(*step)

    def replay_wrongly() -> None:
        replay()
        outputs[1]["residuals"][0, 0, 0] = torch.nan

    return replay_wrongly, outputs


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Capture], None]:
    """Make this processor a device whose steps are captured in some way."""
    monkeypatch.setattr("cptlite.training.graph.DEVICES", ("cpu",))
    return lambda way: monkeypatch.setattr("cptlite.training.graph.capture", way)


def trained(*counts: int, recipe: Recipe = RECIPE, cuda_graphs: bool = True) -> list[TrainingState]:
    states = [new_state(recipe, rows_of(count), seed) for seed, count in enumerate(counts)]
    train(ResidualMethod(), states, cuda_graphs=cuda_graphs)
    return states


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("counts", [(20,), (20, 20, 23)])
def test_a_recorded_step_is_replayed_to_the_same_bytes(
    counts: tuple[int, ...], fraction: float, recorder: Callable[[Capture], None]
) -> None:
    recipe = Recipe(epochs=15, batch_size=4, lr=0.05, class_fraction=fraction)
    losses: list[list[float]] = [[], []]
    plain = trained(*counts, recipe=recipe, cuda_graphs=False)
    recorder(capture)
    recorded = [new_state(recipe, rows_of(count), seed) for seed, count in enumerate(counts)]
    recorded[0].on_epoch = lambda _, loss: losses[0].append(loss)
    train(ResidualMethod(), recorded)
    assert [state.graph for state in recorded] == ["recorded"] * len(counts)
    assert [learned(state) for state in recorded] == [learned(state) for state in plain]
    alone = new_state(recipe, rows_of(counts[0]), 0, on_epoch=lambda _, loss: losses[1].append(loss))
    train(ResidualMethod(), [alone], cuda_graphs=False)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # of every step, not of an epoch's last one


def test_rows_that_stand_task_by_task_are_captured_with_classes_of_their_task(
    recorder: Callable[[Capture], None],
) -> None:
    recipe = Recipe(epochs=60, batch_size=0, lr=0.05)
    plain = trained(20, recipe=recipe, cuda_graphs=False)
    recorder(capture)
    recorded = trained(20, recipe=recipe)
    assert [state.graph for state in recorded] == ["recorded"]
    assert learned(recorded[0]) == learned(plain[0])


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (failing, "not recorded: CUDA error: operation not permitted"),
        (silent, "not recorded: RuntimeError"),
        (empty, "not recorded: a replay differed from the step that it was made of"),
        (wrong, "not recorded: a replay differed from the step that it was made of"),
        (not_a_number, "not recorded: a replay differed from the step that it was made of"),
    ],
)
def test_a_recording_that_fails_or_differs_is_not_used(
    way: Capture, reason: str, recorder: Callable[[Capture], None]
) -> None:
    (plain,) = trained(20, cuda_graphs=False)
    recorder(way)
    (state,) = trained(20)
    assert state.graph == reason
    assert learned(state) == learned(plain)


def test_few_steps_are_not_recorded_nor_any_when_switched_off(recorder: Callable[[Capture], None]) -> None:
    recorder(failing)
    assert trained(20, recipe=Recipe(epochs=9, batch_size=4))[0].graph == "not recorded: too few steps (45 of 50)"
    assert trained(20, cuda_graphs=False)[0].graph == "off"


def test_what_was_recorded_in_one_group_is_said_when_the_next_is_too_small(
    recorder: Callable[[Capture], None],
) -> None:
    recorder(capture)
    states = trained(20, 24)  # 75 and 90 steps: the second takes the last 15 alone
    assert [state.graph for state in states] == ["recorded", "recorded"]


@pytest.mark.gpu
def test_a_gpu_replays_what_it_would_compute() -> None:
    method, results = ResidualMethod(device="cuda"), []
    rows = FewShotRows(features=rows_of(20).features.cuda(), labels=rows_of(20).labels.cuda())
    for cuda_graphs in (True, False):
        states = [new_state(RECIPE, rows, seed, method=method) for seed in (1, 2)]
        train(method, states, cuda_graphs=cuda_graphs)
        assert [state.graph for state in states] == ["recorded" if cuda_graphs else "off"] * 2
        results.append(states)
    for recorded, plain in zip(*results, strict=True):
        for name, value in plain.learnables.items():
            torch.testing.assert_close(recorded.learnables[name], value, rtol=1e-4, atol=1e-5)
