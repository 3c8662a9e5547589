"""Every prompt method of the table in the loop: together as alone, and no waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_steps import count_waits
from training_fakes import DIM, NUM_CLASSES, TASKS, learned, new_state, rows_of

from cptlite.backbones import Backbone, load_backbone
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.methods.table import METHODS, find_method
from cptlite.text.encoder import TextEncoder
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

METHOD_NAMES = sorted(name for name, entry in METHODS.items() if entry.stepped)
RECIPE = Recipe(epochs=4, batch_size=4, lr=0.05)
SIZES = {1: 3, 2: 5, 3: 11, 4: 11, 5: 3}  # rows of each seed: two with less than a batch, two with more steps an epoch


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo")


def make_method(backbone: Backbone, name: str, runs: int = 1, **options: Any) -> PromptMethod:
    """A method of the table with few context tokens, where it has any."""
    tasks = TASKS
    if name == "cocoop":  # one task at a time
        tasks = (replace(tasks[0], class_names=tasks[0].class_names + tasks[1].class_names),)
    problem = Problem(tasks=tasks, text=TextEncoder(backbone.text_tower, backbone.tokenizer))
    entry = find_method(name)
    short = {"context_length": 4} if hasattr(entry.new_options(), "context_length") else {}
    return entry.method(problem, entry.new_options(**short, **options), runs=runs)


def rows_for(name: str, count: int) -> FewShotRows:
    return rows_of(count, 1, 7, DIM) if name == "plot" else rows_of(count)  # patch features of seven places


def moved_state(method: PromptMethod, name: str, count: int, seed: int, recipe: Recipe = RECIPE) -> TrainingState:
    """A run that starts a little beside where its method starts it, which may be at zeros."""
    state = new_state(recipe, rows_for(name, count), seed, method=method)
    for index, value in enumerate(state.learnables.values()):
        value.data += 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(10 * seed + index))
    return state


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_method_together_equals_alone(backbone: Backbone, name: str) -> None:
    method = make_method(backbone, name, runs=len(SIZES))
    together = [moved_state(method, name, count, seed) for seed, count in SIZES.items()]
    train(method, together)
    for state, (seed, count) in zip(together, SIZES.items(), strict=True):
        alone = moved_state(method, name, count, seed)
        start = {key: value.detach().clone() for key, value in alone.learnables.items()}
        train(make_method(backbone, name), [alone])
        for key, value in alone.learnables.items():
            moved = float((value.detach() - start[key]).abs().max())
            assert moved > 0 or not value.requires_grad
            torch.testing.assert_close(state.learnables[key], value, rtol=1e-4, atol=1e-4 * moved)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_method_learns_the_same_bytes_from_the_same_seed(backbone: Backbone, name: str) -> None:
    results = []
    for seed in (1, 1, 2):
        method = make_method(backbone, name)
        recipe = replace(RECIPE, epochs=2, batch_size=1, class_fraction=0.5)
        state = new_state(recipe, rows_for(name, 5), seed, method=method)
        train(method, [state])
        results.append(learned(state))
        scores = method.classifier(state.learnables).scores(rows_for(name, 6).features[:, 0])
        assert scores.shape == (6, NUM_CLASSES)
    assert results[0] == results[1] != results[2]


# On a processor these look whether they may stop iterating; on a GPU they do not.
@pytest.mark.parametrize("name", [name for name in METHOD_NAMES if name not in ("nlprompt", "plot")])
@pytest.mark.parametrize("batch_size", [4, 1])  # so that all classes are encoded, or the picked ones
def test_steps_of_a_method_never_wait_for_the_device(
    backbone: Backbone, name: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.text.picking.TRIMMED_DEVICES", ())  # as on a GPU
    recipe = Recipe(epochs=2, batch_size=batch_size)
    few, fewer_operations = count_waits(make_method(backbone, name), 2 * batch_size, 1, recipe)
    subsampled = replace(recipe, class_fraction=0.5)
    many, more_operations = count_waits(make_method(backbone, name), 6 * batch_size, 1, subsampled)
    assert more_operations > 2 * fewer_operations
    assert few == many  # what there is, is of an epoch or a training
