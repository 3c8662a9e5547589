"""What a step does beside the method: class subsampling, smaller batches, and no waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training_fakes import DIM, ResidualMethod, learned, new_state, rows_of

from cptlite.methods.base import FewShotRows, PromptMethod
from cptlite.methods.batches import Batch
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::unique", "aten::_unique2")


class Operations(TorchDispatchMode):
    """Names of all operations that PyTorch carries out, backward and optimiser included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.append(operation.name().split(".")[0])
        return operation(*arguments, **(named or {}))


class Waiting(ResidualMethod):
    """Looks at its images in every step."""

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        assert images.sum().item() != 0
        return super().logits(learnables, images)


def count_waits(method: PromptMethod, count: int, runs: int, recipe: Recipe) -> tuple[int, int]:
    """Operations that a GPU would have to be waited for in a training of several steps, and all operations."""
    states = [new_state(recipe, rows_of(count), seed, method=method) for seed in range(runs)]
    with Operations() as seen:
        train(method, states)
    return sum(name in WAITS for name in seen.names), len(seen.names)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("method", "waits"), [(ResidualMethod, False), (Waiting, True)])
def test_steps_never_wait_for_the_device(method: type[ResidualMethod], waits: bool, runs: int) -> None:
    few, fewer_operations = count_waits(method(), 8, runs, Recipe(epochs=2, batch_size=4))
    many, more_operations = count_waits(method(), 24, runs, Recipe(epochs=2, batch_size=4, class_fraction=0.5))
    assert more_operations > 2 * fewer_operations
    assert (few != many) is waits  # what there is, is of an epoch or a training


def test_the_loss_is_over_the_classes_that_are_scored() -> None:
    method = ResidualMethod()
    learnables = {
        name: torch.stack([value.detach(), 2 * value.detach()])
        for name, value in method.start(torch.Generator().manual_seed(0)).items()
    }
    images, labels = torch.randn(2, 3, DIM), torch.tensor([[0, 4, 4], [0, 1, 1]])  # of classes 0, 1 and of 2, 3, 4
    logits = method.logits(learnables, images)  # (R, B, K)
    first, second = (logits[0], labels[0]), (logits[1], labels[1])
    by_hand = [
        (F.cross_entropy(first[0][:1, :1], first[1][:1]) + 2 * F.cross_entropy(first[0][1:, 3:], first[1][1:] - 3)) / 3,
        F.cross_entropy(second[0][:, :2], second[1]),  # all two of the task are in the batch
    ]
    for classes in ([[0, 3, 4, -1], [0, 1, 2, -1]], [[0, -1, -1, 3, 4], [0, 1, 2, -1, -1]]):
        batch = Batch(images=images, labels=labels, classes=torch.tensor(classes))
        torch.testing.assert_close(method.loss(learnables, batch), torch.stack(by_hand))
    assert method.loss(learnables, Batch(images=images, labels=labels))[0] > by_hand[0]


class Noting(ResidualMethod):
    """Notes the batch of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def gradients(self, learnables: Any, batch: Batch) -> Any:
        self.batches.append(batch)
        return super().gradients(learnables, batch)


@pytest.mark.parametrize("runs", [1, 3])
def test_picked_classes_reach_the_method_with_the_axis_of_runs(runs: int) -> None:
    method = Noting()
    recipe = Recipe(epochs=3, batch_size=1, lr=0.05, class_fraction=0.5)
    train(method, [new_state(recipe, rows_of(25), seed) for seed in range(runs)])
    assert len(method.batches) == 75
    for batch in method.batches:
        assert batch.classes is not None
        assert batch.classes.shape == (runs, 1 + 1 + 2)
        for label, classes in zip(batch.labels[:, 0].tolist(), batch.classes.tolist(), strict=True):
            kept = [each for each in classes if each >= 0]
            assert label in kept
            # The one in the batch and one of the one or two others; or one of two, and two of three.
            by_task = [sum(each < 2 for each in kept), sum(each >= 2 for each in kept)]
            assert by_task == ([2, 2] if label < 2 else [1, 2])


def test_a_fraction_of_one_picks_nothing_and_less_is_reproducible() -> None:
    method = Noting()
    train(method, [new_state(Recipe(epochs=1, batch_size=4), rows_of(7))])
    assert [batch.classes for batch in method.batches] == [None]
    results = []
    for fraction in (1.0, 0.5, 0.5):
        state = new_state(Recipe(epochs=3, batch_size=1, lr=0.05, class_fraction=fraction), rows_of(12))
        train(ResidualMethod(), [state])
        results.append(learned(state))
    assert results[0] != results[1] == results[2]


@pytest.mark.parametrize(
    ("count", "batch_size", "rows"), [(12, 12, (6, 6)), (13, 32, (6, 7)), (3, 4, (2, 1)), (12, 4, None)]
)
def test_a_batch_of_all_rows_stands_task_by_task(count: int, batch_size: int, rows: tuple[int, int] | None) -> None:
    method = Noting()
    train(method, [new_state(Recipe(epochs=1, batch_size=batch_size), rows_of(count))])
    for batch in method.batches:
        assert batch.task_rows == rows
        if rows:
            tasks = method.problem.class_tasks[batch.labels[0]]
            assert torch.equal(tasks, tasks.sort().values)
            assert len(tasks) == count


def test_runs_of_other_counts_by_task_step_in_groups_of_their_own() -> None:
    rows = [rows_of(12), FewShotRows(features=rows_of(12).features, labels=torch.arange(12) % 2)]
    recipe = Recipe(epochs=4, batch_size=12, lr=0.05)
    method = Noting()
    states = [new_state(recipe, each) for each in rows]
    train(method, states)
    assert [batch.task_rows for batch in method.batches] == [(6, 6)] * 4 + [(12, 0)] * 4
    for each, state in zip(rows, states, strict=True):
        alone = new_state(recipe, each)
        train(ResidualMethod(), [alone])
        assert learned(alone) == learned(state)


def test_a_batch_of_none_is_all_rows() -> None:
    assert [Recipe(batch_size=0).batch_of(count) for count in (7, 52, 19056)] == [7, 52, 19056]
    assert [Recipe().batch_of(count) for count in (7, 52, 19056)] == [7, 32, 32]


def test_epochs_grow_with_the_shots_up_to_a_limit() -> None:
    recipe = Recipe(epochs=600, epochs_per_shot=75)
    assert [recipe.at(shots).epochs for shots in (1, 2, 4, 8, 16)] == [75, 150, 300, 600, 600]
    assert Recipe(epochs_per_shot=0.1).at(1).epochs == 1
    assert [Recipe().at(shots).epochs for shots in (1, 16)] == [50, 50]


def test_rates_grow_with_the_shots_up_to_a_limit() -> None:
    recipe = Recipe(lr=0.4, warmup_lr=0.2, lr_shots=8)
    assert [recipe.at(shots).lr for shots in (1, 2, 8, 16)] == pytest.approx([0.05, 0.1, 0.4, 0.4])
    assert [recipe.at(shots).warmup_lr for shots in (1, 2, 8, 16)] == pytest.approx([0.025, 0.05, 0.2, 0.2])
    assert [Recipe().at(shots) for shots in (1, 16)] == [Recipe()] * 2
    assert recipe.at(4) == recipe.at(4).at(1)  # what it is at a number of shots stays so


def test_a_recipe_for_any_number_of_shots_trains_nothing() -> None:
    with pytest.raises(AssertionError):
        new_state(Recipe(lr_shots=8), rows_of(8))


def test_the_learning_rate_warms_up_then_follows_a_cosine_over_all_epochs() -> None:
    recipe = Recipe(epochs=5, lr=1.0, warmup_epochs=1, warmup_lr=0.25)
    rates = [recipe.learning_rate(epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.25, 1.0, 0.9045085, 0.6545085, 0.3454915])
