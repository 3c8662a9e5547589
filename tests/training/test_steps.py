"""What a step of the loop does beside the text path: class subsampling, and no waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_together import new_run, rows_of
from test_training import learned, make_method
from torch.utils._python_dispatch import TorchDispatchMode

from cptlite.backbones.clip import Backbone, load_backbone
from cptlite.methods.table import METHODS
from cptlite.training.loop import Recipe, train_prompts, train_together

METHOD_NAMES = [name for name, entry in METHODS.items() if entry.prompts]
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::unique", "aten::_unique2")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo")


class Operations(TorchDispatchMode):
    """Names of all operations that PyTorch carries out, backward and optimiser included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.append(operation.name().split(".")[0])
        return operation(*arguments, **(named or {}))


def count_waits(backbone: Backbone, name: str, count: int, recipe: Recipe) -> tuple[int, int]:
    """Operations that a GPU would have to be waited for in a training of several steps, and all operations."""
    method, run = make_method(backbone, name), new_run(backbone, name, count, 1)
    with Operations() as seen:
        train_together(method, [run], recipe)
    return sum(name in WAITS for name in seen.names), len(seen.names)


# On a processor plot looks whether it may stop iterating; on a GPU it does not.
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*METHOD_NAMES} - {"plot"}))
def test_steps_never_wait_for_the_device(backbone: Backbone, name: str) -> None:
    few, fewer_operations = count_waits(backbone, name, 8, Recipe(epochs=2, batch_size=4))
    many, more_operations = count_waits(backbone, name, 24, Recipe(epochs=2, batch_size=4, class_fraction=0.5))
    assert more_operations > 2 * fewer_operations
    assert few == many  # what there is, is of an epoch or a training


@pytest.mark.parametrize("name", ["coop-ca", "softcpt"])
def test_the_loss_is_over_kept_classes_and_those_in_the_batch(backbone: Backbone, name: str) -> None:
    method = make_method(backbone, name)
    images, labels = torch.randn(3, 128), torch.tensor([0, 4, 4])  # of classes 0, 1 and of 2, 3, 4
    logits = method.classifier_logits(images)
    kept = torch.tensor([False, False, False, True, False])
    method.kept_classes = kept
    by_hand = (F.cross_entropy(logits[:1, :1], labels[:1]) + 2 * F.cross_entropy(logits[1:, 3:], labels[1:] - 3)) / 3
    torch.testing.assert_close(method.loss(images, labels), by_hand)
    method.kept_classes = None
    assert method.loss(images, labels) > by_hand


def test_a_fraction_of_one_changes_nothing_and_less_is_reproducible(backbone: Backbone) -> None:
    results = []
    for fraction in (1.0, 0.5, 0.5, 0.0):
        method = make_method(backbone)
        train_prompts(method, rows_of(12), Recipe(epochs=3, batch_size=4, class_fraction=fraction), seed=1)
        results.append(learned(method))
    assert results[1] == results[2]
    assert len(set(results)) == 3


def test_a_subsampled_run_among_others_ends_as_it_would_alone(backbone: Backbone) -> None:
    recipe = Recipe(epochs=4, batch_size=4, lr=0.05, class_fraction=0.3)
    together = [new_run(backbone, "softcpt", count, seed) for seed, count in {1: 5, 2: 11, 3: 11}.items()]
    train_together(make_method(backbone, "softcpt"), together, recipe)
    for run, count in zip(together, (5, 11, 11), strict=True):
        alone = new_run(backbone, "softcpt", count, run.seed)
        train_together(make_method(backbone, "softcpt"), [alone], recipe)
        for key, value in alone.learnables.items():
            torch.testing.assert_close(run.learnables[key], value, rtol=1e-4, atol=1e-5)


def test_few_rows_make_smaller_batches_down_to_the_papers() -> None:
    recipe = Recipe(batch_size=256, least_steps=12)
    assert [recipe.batch_of(count) for count in (7, 52, 208, 832, 19056)] == [7, 32, 32, 69, 256]
    assert [Recipe().batch_of(count) for count in (7, 52, 19056)] == [7, 32, 32]


def test_adamw_goes_on_from_a_checkpoint_to_the_same_bytes(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    recipe = Recipe(epochs=4, batch_size=4, optimizer="adamw", lr=0.01)
    whole = make_method(backbone)
    train_prompts(whole, rows_of(12), recipe, seed=1)

    class Killed(BaseException):
        pass

    def kill(epoch: int, _: float) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train_prompts(make_method(backbone), rows_of(12), recipe, seed=1, folder=tmp_path, on_epoch=kill)
    resumed = make_method(backbone)
    train_prompts(resumed, rows_of(12), recipe, seed=1, folder=tmp_path)
    assert learned(resumed) == learned(whole)
    sgd = make_method(backbone)
    train_prompts(sgd, rows_of(12), replace(recipe, optimizer="sgd"), seed=1)
    assert learned(sgd) != learned(whole)
