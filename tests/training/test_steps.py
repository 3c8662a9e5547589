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

from cptlite.methods.base import PromptMethod
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::unique", "aten::_unique2")
FRACTIONS = Recipe(epochs=3, batch_size=4, lr=0.05, class_fraction=0.5)


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


def test_the_loss_is_over_kept_classes_and_those_in_the_batch() -> None:
    method = ResidualMethod()
    learnables = {
        name: torch.stack([value.detach(), 2 * value.detach()])
        for name, value in method.start(torch.Generator().manual_seed(0)).items()
    }
    images, labels = torch.randn(2, 3, DIM), torch.tensor([[0, 4, 4], [0, 1, 1]])  # of classes 0, 1 and of 2, 3, 4
    kept = torch.tensor([[False, False, False, True, False], [False, False, True, False, False]])
    logits = method.logits(learnables, images)  # (R, B, K)
    first, second = (logits[0], labels[0]), (logits[1], labels[1])
    by_hand = [
        (F.cross_entropy(first[0][:1, :1], first[1][:1]) + 2 * F.cross_entropy(first[0][1:, 3:], first[1][1:] - 3)) / 3,
        F.cross_entropy(second[0][:, :2], second[1]),  # all two of the task are in the batch
    ]
    torch.testing.assert_close(method.loss(learnables, images, labels, kept), torch.stack(by_hand))
    assert method.loss(learnables, images, labels)[0] > by_hand[0]


class Noting(ResidualMethod):
    """Notes the kept classes of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor | None] = []

    def gradients(self, learnables: Any, images: Tensor, labels: Tensor, kept: Tensor | None = None) -> Any:
        self.kept.append(kept)
        return super().gradients(learnables, images, labels, kept)


def test_kept_classes_reach_the_method_with_the_axis_of_runs() -> None:
    for runs in (1, 3):
        method = Noting()
        train(method, [new_state(FRACTIONS, rows_of(100), seed) for seed in range(runs)])
        kept = torch.stack([each for each in method.kept if each is not None])  # (steps, R, K)
        assert kept.shape == (75, runs, 5)
        assert kept.dtype == torch.bool
        assert 0.4 < kept.float().mean() < 0.6
    method = Noting()
    train(method, [new_state(Recipe(epochs=1, batch_size=4), rows_of(4))])
    assert method.kept == [None]


def test_a_fraction_of_one_changes_nothing_and_less_is_reproducible() -> None:
    results = []
    for fraction in (1.0, 0.5, 0.5, 0.0):
        state = new_state(Recipe(epochs=3, batch_size=4, lr=0.05, class_fraction=fraction), rows_of(12))
        train(ResidualMethod(), [state])
        results.append(learned(state))
    assert results[1] == results[2]
    assert len(set(results)) == 3


def test_a_batch_of_none_is_all_rows() -> None:
    assert [Recipe(batch_size=0).batch_of(count) for count in (7, 52, 19056)] == [7, 52, 19056]
    assert [Recipe().batch_of(count) for count in (7, 52, 19056)] == [7, 32, 32]


def test_epochs_grow_with_the_shots_up_to_a_limit() -> None:
    recipe = Recipe(epochs=600, epochs_per_shot=75)
    assert [recipe.epochs_at(shots) for shots in (1, 2, 4, 8, 16)] == [75, 150, 300, 600, 600]
    assert Recipe(epochs_per_shot=0.1).epochs_at(1) == 1
    assert [Recipe().epochs_at(shots) for shots in (1, 16)] == [50, 50]


def test_the_learning_rate_warms_up_then_follows_a_cosine_over_all_epochs() -> None:
    recipe = Recipe(epochs=5, lr=1.0, warmup_epochs=1, warmup_lr=0.25)
    rates = [recipe.learning_rate(epoch, 5) for epoch in range(5)]
    assert rates == pytest.approx([0.25, 1.0, 0.9045085, 0.6545085, 0.3454915])
