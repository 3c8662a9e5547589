"""MVLPT's contexts: a loss over the classes of all tasks, also of some of them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.mvlpt import MCoOp, MCoOpOptions

IMAGES, LABELS = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 1, 3, 4])


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
    return Problem(tasks=tasks, text=text_encoder("fused"))


def mcoop(problem: Problem, **given: bool) -> Started:
    return Started(MCoOp(problem, MCoOpOptions(context_length=4, **given)))


def slow_loss(started: Started, classes: list[int], zeroed: bool) -> float:
    """Image by image, with sums written out."""
    weights = started.call("class_weights").detach()
    scale, tasks, losses = math.exp(started.method.logit_scale), [0, 0, 1, 1, 1], []
    for image, label in zip(F.normalize(IMAGES, dim=-1), LABELS.tolist(), strict=True):
        logits = {k: scale * float(image @ weights[k]) for k in classes}
        shown = {k: 0.0 if zeroed and tasks[k] != tasks[label] else value for k, value in logits.items()}
        losses.append(math.log(sum(math.exp(value) for value in shown.values())) - shown[label])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("zeroed", [False, True])
def test_the_loss_is_over_the_classes_of_all_tasks(problem: Problem, zeroed: bool) -> None:
    started = mcoop(problem, zero_other_tasks=zeroed)
    wanted = slow_loss(started, [0, 1, 2, 3, 4], zeroed)
    assert started.loss(IMAGES, LABELS).item() == pytest.approx(wanted, rel=1e-5)
    # One task after the other, the same images: another task's classes stay.
    order = LABELS.argsort()
    batch = Batch(images=IMAGES[order][None], labels=LABELS[order][None], task_rows=(2, 4))
    assert started.method.loss(started.stacked(), batch).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("classes", [[0, 2, 4], [0, -1, 2, -1, 4], [4, 0, 2, -1]])
def test_of_some_classes_the_loss_is_over_these(problem: Problem, classes: list[int], zeroed: bool) -> None:
    started = mcoop(problem, zero_other_tasks=zeroed)
    here = torch.tensor([0, 1, 2, 5])
    images, labels = IMAGES[here], LABELS[here].clone()
    labels[labels == 1] = 0
    batch = Batch(images=images[None], labels=labels[None], classes=torch.tensor([classes]))
    weights = started.call("class_weights").detach()
    kept, tasks = torch.tensor([each for each in classes if each >= 0]), torch.tensor([0, 0, 1, 1, 1])
    scores = math.exp(started.method.logit_scale) * F.normalize(images, dim=-1) @ weights[kept].T
    if zeroed:
        scores = scores * (tasks[labels][:, None] == tasks[kept])
    wanted = F.cross_entropy(scores, (kept == labels[:, None]).int().argmax(dim=1))
    assert started.method.loss(started.stacked(), batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_scores_do_not_depend_on_what_the_loss_zeroes(problem: Problem) -> None:
    one, other = mcoop(problem), mcoop(problem, zero_other_tasks=True)
    assert torch.equal(one.logits(IMAGES), other.logits(IMAGES))
    torch.testing.assert_close(one.classifier().scores(IMAGES), other.logits(IMAGES).detach(), rtol=1e-4, atol=1e-4)
