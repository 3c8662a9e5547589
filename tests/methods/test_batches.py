"""What a loss is over: task by task as with other tasks masked, and some classes alone as with the others masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_method_paths import (
    EMBED_DIM,
    KINDS,
    PETS,
    PLACES,
    Case,
    Runs,
    assert_agree,
    draw_batch,
    make_runs,
)
from torch import Tensor

from cptlite.methods.base import PromptMethod
from cptlite.methods.batches import Batch, cross_entropy, take
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.methods.prompts.kgcoop import KgCoOp
from cptlite.methods.prompts.plot import Plot
from cptlite.text.encoder import TEXT_PATHS
from cptlite.text.layout import POSITIONS

EVERY = [*KINDS, ("taskres", "", "")]
ALONE = ("prograd", "dapt-text", "lasp-text", "argue-text", "argue-n-text")
"""Whose step over some classes is told by a problem of these alone: projected, or with terms of the classes."""
PICKING = [kind for kind in KINDS if kind[0] not in ("cocoop", "plot", *ALONE)]
"""Whose step is told by the logits of all classes."""
NAMES = ("cat", "red dog", "dog", "panda bear cub", "St. 737-200", "fox", "a", "red panda", "x_y")
ZOO = Case((("zoo", NAMES), ("fruit", ("fig", "kiwi", "red plum", "pear", "lime"))))
CLASSES = ([0, 3, 4, 10, 13, -1], [1, 2, 8, 9, 10, 12], [0, 5, 9, -1, -1, -1])
LABELS = ([3, 10, 0, 13, 3], [2, 12, 12, 9, 8], [9, 5, 0, 9, 5])
"""Of each of three runs: a few of both tasks' classes, and rows of these."""


def step(runs: Runs, batch: Batch) -> dict[str, Tensor]:
    loss, found = runs.method.gradients(runs.learnables, batch)
    return {"loss": loss, **found}


def assert_same_step(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Losses to 1e-6; through the text encoder float32 rounds gradients to a few of these."""
    assert_agree({"loss": one["loss"]}, {"loss": other["loss"]}, 1e-6)
    assert_agree(one, other, 5e-6)


def rows_by_task(runs: Runs, counts: tuple[int, ...]) -> Batch:
    """Rows of each task after those of the one before; of a method of one task all of it."""
    ranges = runs.method.problem.class_ranges
    counts = counts if len(ranges) == len(counts) else (sum(counts),)
    generator = torch.Generator().manual_seed(4)
    shape = (PLACES, EMBED_DIM) if isinstance(runs.method, Plot) else (EMBED_DIM,)
    labels = [
        torch.randint(start, stop, (runs.count, count), generator=generator)
        for count, (start, stop) in zip(counts, ranges, strict=True)
    ]
    images = torch.randn((runs.count, sum(counts), *shape), generator=generator)
    return Batch(images=images, labels=torch.cat(labels, dim=1), task_rows=counts)


@pytest.mark.parametrize("counts", [(4, 3), (0, 6)])
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: "-".join(filter(None, kind)))
def test_task_by_task_is_as_with_other_tasks_masked(kind: tuple[str, str, str], counts: tuple[int, ...]) -> None:
    runs = make_runs(kind, Case(PETS), "fused", count=2)
    batch = rows_by_task(runs, counts)
    shuffled = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0))
    masked = replace(batch.map(lambda tensor: tensor[:, shuffled]), task_rows=None)
    assert_same_step(step(runs, masked), step(runs, batch))


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: "-".join(filter(None, kind)))
def test_task_by_task_leaves_classes_out_too(kind: tuple[str, str, str]) -> None:
    runs = make_runs(kind, Case(PETS), "fused", count=2)
    batch = rows_by_task(runs, (4, 3))
    classes = torch.arange(runs.method.problem.class_tasks.numel()).repeat(2, 1)
    present = torch.zeros_like(classes).scatter(1, batch.labels, 1) > 0
    some = replace(batch, classes=torch.where(present, classes, -1))
    assert_same_step(step(runs, replace(some, task_rows=None)), step(runs, some))


def loss_over(runs: Runs, batch: Batch) -> Tensor:
    """Loss over a batch's classes, from the logits of all, image by image."""
    assert batch.classes is not None and isinstance(runs.method, ClassWeightMethod)
    weights, tasks = runs.method.class_weights(runs.learnables), runs.method.problem.class_tasks
    losses = []
    for run, (images, labels, classes) in enumerate(zip(batch.images, batch.labels, batch.classes, strict=True)):
        logits = runs.method.cosine_logits(images, weights[run])  # (B, K)
        kept = classes[classes >= 0]
        for row, label in zip(logits, labels, strict=True):
            own = kept[tasks[kept] == tasks[label]]
            losses.append(F.cross_entropy(row[own], (own == label).int().argmax()))
            if isinstance(runs.method, KgCoOp):
                cosines = F.cosine_similarity(weights[run, own], runs.method._anchors[own], dim=-1)
                losses[-1] = losses[-1] + runs.method.options.strength * (1 - cosines.mean())
    return torch.stack(losses).view(len(batch.images), -1).mean(dim=1)


def restricted_step(runs: Runs, batch: Batch) -> dict[str, Tensor]:
    """Losses over a batch's classes and their gradients, by way of all classes."""
    loss = loss_over(runs, batch)
    found = torch.autograd.grad(loss.sum(), list(runs.learnables.values()), allow_unused=True)
    named = zip(runs.learnables, found, strict=True)
    return {"loss": loss.detach(), **{name: value for name, value in named if value is not None}}


def some_classes(count: int) -> Batch:
    """Rows of both tasks of `ZOO`, for some of whose classes alone their loss is."""
    images = torch.randn(count, 5, EMBED_DIM, generator=torch.Generator().manual_seed(5))
    return Batch(images=images, labels=torch.tensor(LABELS[:count]), classes=torch.tensor(CLASSES[:count]))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("kind", PICKING, ids=lambda kind: "-".join(filter(None, kind)))
def test_picked_classes_step_as_all_do_with_the_others_left_out(
    kind: tuple[str, str, str], path: str, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 3):
        all_classes = make_runs(kind, ZOO, "plain", position, count=count)
        wanted = restricted_step(all_classes, some_classes(count))
        for trimmed in (("cpu",), ()) if path == "fused" else ((),):
            monkeypatch.setattr("cptlite.text.picking.TRIMMED_DEVICES", trimmed)
            picked = make_runs(kind, ZOO, path, position, count=count)
            monkeypatch.setattr(type(picked.method), "class_weights", None)  # those of all classes are not made
            assert_agree(wanted, step(picked, some_classes(count)))
            monkeypatch.undo()


@pytest.mark.parametrize("name", ALONE)
def test_a_step_over_some_classes_is_that_of_a_problem_of_these_alone(name: str) -> None:
    whole = make_runs((name, "", ""), ZOO, "fused")
    batch = some_classes(1)
    names = [name for _, names in ZOO.tasks for name in names]
    zoo, fruit = (tuple(names[each] for each in kept) for kept in ((0, 3, 4), (10, 13)))
    part = make_runs((name, "", ""), Case((("zoo", zoo), ("fruit", fruit))), "fused")
    places = torch.tensor([[CLASSES[0].index(label) for label in LABELS[0]]])
    alone = Runs(part.method, whole.learnables)
    assert_agree(step(alone, Batch(images=batch.images, labels=places)), step(whole, batch))


@pytest.mark.parametrize("kind", [("cocoop", "", ""), ("plot", "", ""), ("taskres", "", "")], ids=str)
def test_a_method_that_picks_nothing_leaves_the_others_out_all_the_same(kind: tuple[str, str, str]) -> None:
    runs = make_runs(kind, Case(PETS[:1]), "fused", count=2)
    batch = replace(draw_batch(runs), labels=torch.tensor([[0, 2, 2, 0, 0, 2]] * 2))
    logits = runs.method.logits(runs.learnables, batch.images)[..., [0, 2]]
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten() // 2, reduction="none").view(2, -1).mean(1)
    for classes in ([0, 2], [2, 0, -1], [0, -1, 2]):
        picked = replace(batch, classes=torch.tensor([classes] * 2))
        torch.testing.assert_close(runs.method.loss(runs.learnables, picked), wanted, rtol=1e-5, atol=1e-6)


def test_all_classes_are_made_where_that_is_less() -> None:
    runs = make_runs(("coop-mt", "", ""), Case((("dog", ("dog", "dog house", "dog house keeper")),)), "fused")
    classes = torch.tensor([[0, 1, 2]])
    assert not runs.method._encode.picking_saves(3)  # names that begin alike share more than picks do
    batch = Batch(images=torch.randn(1, 4, EMBED_DIM), labels=torch.tensor([[0, 1, 2, 1]]), classes=classes)
    assert torch.equal(runs.method.loss(runs.learnables, batch), PromptMethod.loss(runs.method, runs.learnables, batch))
    assert_agree(step(runs, replace(batch, classes=None)), step(runs, batch))


def test_runs_join_side_by_side() -> None:
    one = Batch(images=torch.zeros(1, 2, 3), labels=torch.tensor([[0, 1]]), classes=torch.tensor([[0, 1, -1]]))
    other = one.map(lambda tensor: tensor + 1)
    both = Batch.join([one, other])
    assert both.labels.tolist() == [[0, 1], [1, 2]]
    assert both.classes is not None
    assert both.classes.tolist() == [[0, 1, -1], [1, 2, 0]]
    assert [tensor.shape for tensor in both.tensors] == [(2, 2, 3), (2, 2), (2, 3)]
    with pytest.raises(AssertionError):
        Batch.join([replace(one, task_rows=(1, 1)), other])


def test_taking_adds_gradients_of_what_is_taken_twice() -> None:
    values = torch.arange(12.0).view(2, 3, 2).requires_grad_()
    taken = take(values, torch.tensor([[2, -1, 2], [1, 0, -1]]))
    assert taken[..., 0].tolist() == [[4, 0, 4], [8, 6, 6]]
    (gradient,) = torch.autograd.grad(taken.sum(), values)
    assert gradient[..., 0].tolist() == [[1, 0, 2], [2, 1, 0]]


def test_cross_entropy_is_the_mean_over_rows_not_parts() -> None:
    scores, labels = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, 0, 1]] * 2)
    wanted = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5).mean(dim=1)
    parts = [(scores[:, :1], labels[:, :1]), (scores[:, 1:], labels[:, 1:])]
    torch.testing.assert_close(cross_entropy(parts), wanted)
