"""NLPrompt: couplings by a plain loop, which rows are believed, their losses and their order in an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from scipy.optimize import linprog
from started import Started
from torch import Tensor
from training_fakes import Killed, raise_at

from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.nlprompt import NLPrompt, NLPromptOptions, couple, robust_loss
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def nlprompt(problem: Problem, **given: float) -> Started:
    return Started(NLPrompt(problem, NLPromptOptions(context_length=4, **given)))


def noisy_rows(started: Started, count: int = 20) -> tuple[FewShotRows, Tensor]:
    """Rows around the class weights that the method starts with, a quarter of their labels wrong; which are right."""
    generator = torch.Generator().manual_seed(0)
    weights = started.call("class_weights").detach()
    true = torch.arange(count) % 5
    features = weights[true] + 0.02 * torch.randn(count, 32, generator=generator)
    right = torch.arange(count) % 4 > 0
    wrong = torch.tensor([1, 0, 3, 4, 2])[true]
    views = torch.stack([features, torch.randn(count, 32, generator=generator)], dim=1)  # the second says nothing
    return FewShotRows(features=views, labels=torch.where(right, true, wrong)), right


# The coupling

EVERY = torch.ones(30, dtype=torch.bool)


def chances(rows: int, classes: int) -> Tensor:
    return (3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))).softmax(dim=-1)


def test_it_is_that_of_a_plain_loop() -> None:
    given = chances(12, 4)
    sharper = np.exp(given.double().numpy())
    kernel = (sharper / sharper.sum(axis=1, keepdims=True)) ** (1 / 0.05)
    u, v = np.ones(12) / 12, np.ones(4) / 4
    for _ in range(7):
        v = 1 / 4 / (kernel.T @ u)
        u = 1 / 12 / (kernel @ v)
    found = couple(given, EVERY[: len(given)], eps=0.05, iterations=7, threshold=0.0)
    np.testing.assert_allclose(found.numpy(), u[:, None] * kernel * v, rtol=1e-10)


@pytest.mark.parametrize("eps", [0.001, 0.01, 1.0])
def test_both_sides_have_their_mass_even_where_exponentials_would_vanish(eps: float) -> None:
    found = couple(chances(30, 5), EVERY[:30], eps=eps, iterations=2000, threshold=1e-8)
    assert found.isfinite().all() and (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.full((30,), 1 / 30, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.sum(dim=0), torch.full((5,), 1 / 5, dtype=torch.float64), atol=5e-4, rtol=0)


def test_rows_of_other_tasks_have_no_part_in_it() -> None:
    given = chances(12, 4)
    own = torch.arange(12) % 3 > 0
    found = couple(given, own, eps=0.05, iterations=25, threshold=0.0)
    alone = couple(given[own], EVERY[:8], eps=0.05, iterations=25, threshold=0.0)
    torch.testing.assert_close(found[own], alone)
    assert not found[~own].any()


def test_it_stops_where_it_may() -> None:
    given = chances(12, 4)
    early, once = (couple(given, EVERY[: len(given)], eps=0.05, iterations=count, threshold=1e9) for count in (1000, 1))
    assert torch.equal(early, once)
    assert not torch.equal(once, couple(given, EVERY[: len(given)], eps=0.05, iterations=50, threshold=0.0))


@pytest.mark.slow
def test_with_little_entropy_it_is_the_linear_programmes() -> None:
    given = chances(6, 3)
    gain = F.log_softmax(given.double(), dim=-1).numpy()
    sums = np.concatenate([np.kron(np.eye(6), np.ones((1, 3))), np.kron(np.ones((1, 6)), np.eye(3))])
    best = linprog(-gain.ravel(), A_eq=sums, b_eq=[1 / 6] * 6 + [1 / 3] * 3)
    found = couple(given, EVERY[: len(given)], eps=0.001, iterations=20_000, threshold=0.0).numpy()
    assert -(found * gain).sum() == pytest.approx(best.fun, abs=1e-4)


# Rows


def test_rows_near_another_class_are_not_believed(problem: Problem) -> None:
    started = nlprompt(problem)
    rows, right = noisy_rows(started)
    assert torch.equal(started.method.mark_rows(started.learnables, rows), right)


def test_each_task_has_a_coupling_of_its_own(problem: Problem) -> None:
    """And it is of the plain views: a task alone, its rows in another order."""
    started = nlprompt(problem)
    rows, _ = noisy_rows(started)
    rows = FewShotRows(features=rows.features + 0.3 * torch.randn_like(rows.features), labels=rows.labels)
    joint = started.method.mark_rows(started.learnables, rows)
    alone = nlprompt(Problem(tasks=TASKS[1:], text=problem.text))
    alone.learnables["context"].data = started.learnables["context"].data[1:]
    here = torch.nonzero(rows.labels >= 2).flatten().flip(0)
    own = FewShotRows(features=rows.features[here], labels=rows.labels[here] - 2)
    assert torch.equal(alone.method.mark_rows(alone.learnables, own), joint[here])
    assert joint.any() and not joint.all()


def test_losses_by_mark() -> None:
    scores, labels = torch.randn(2, 3, 4, requires_grad=True), torch.tensor([[0, 3, 1], [2, 2, 0]])
    marks = torch.tensor([[True, False, True], [False, False, True]])
    chance = scores.softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
    wanted = torch.where(marks, -chance.log(), 1 - chance).mean(dim=-1)
    parts = [(scores[:, :1], labels[:, :1]), (scores[:, 1:], labels[:, 1:])]
    torch.testing.assert_close(robust_loss(parts, marks), wanted)
    torch.testing.assert_close(robust_loss(parts, None), -chance.log().mean(dim=-1))


@pytest.mark.parametrize("classes", [None, [[0, 2, 3, 4, -1]]])
def test_the_loss_is_over_the_classes_of_the_rows_task(problem: Problem, classes: list[list[int]] | None) -> None:
    started = nlprompt(problem)
    images, labels = torch.randn(1, 4, 32), torch.tensor([[0, 3, 4, 2]])
    marks = torch.tensor([[True, False, True, False]])
    batch = Batch(images=images, labels=labels, marks=marks, classes=None if classes is None else torch.tensor(classes))
    logits, terms = started.logits(images[0]).detach(), []
    for row, (label, mark) in enumerate(zip(labels[0].tolist(), marks[0].tolist(), strict=True)):
        own = ([0, 1] if classes is None else [0]) if label < 2 else [2, 3, 4]
        chance = logits[row, own].softmax(dim=-1)[own.index(label)]
        terms.append(-chance.log() if mark else 1 - chance)
    loss = started.method.loss(started.stacked(), batch)[0]
    torch.testing.assert_close(loss.detach(), torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


# An epoch


def new_state(started: Started, rows: FewShotRows, recipe: Recipe) -> TrainingState:
    sizes = started.method.problem.task_sizes
    return TrainingState(started.learnables, rows, recipe, seed=1, task_sizes=sizes, mark_rows=started.method.mark_rows)


def test_believed_rows_come_first_each_group_in_the_order_drawn(problem: Problem) -> None:
    started = nlprompt(problem)
    rows, right = noisy_rows(started)
    tagged = FewShotRows(features=rows.features.clone(), labels=rows.labels)
    tagged.features[:, 1, 0] = torch.arange(len(right))  # random views are of view 1 alone
    state = new_state(started, tagged, Recipe(epochs=1, batch_size=4))
    batches = [state.next_batch()]
    for _ in range(4):
        state._losses.append(torch.tensor(0.0))
        batches.append(state.next_batch())
    taken = torch.cat([batch.images[0, :, 0] for batch in batches]).long()
    marks = torch.cat([batch.marks[0] for batch in batches if batch.marks is not None])
    assert sorted(taken.tolist()) == list(range(20)) and torch.equal(marks, right[taken])
    assert marks.tolist() == [True] * 15 + [False] * 5
    plain = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(taken, torch.cat([plain[right[plain]], plain[~right[plain]]]))


def test_a_batch_of_all_rows_task_by_task_has_their_marks(problem: Problem) -> None:
    started = nlprompt(problem)
    rows, right = noisy_rows(started)
    batch = new_state(started, rows, Recipe(epochs=1, batch_size=0)).next_batch()
    assert batch.task_rows == (8, 12) and batch.marks is not None
    by_task = (rows.labels >= 2).int().argsort(stable=True)
    assert torch.equal(batch.labels[0], rows.labels[by_task]) and torch.equal(batch.marks[0], right[by_task])
    both = Batch.join([batch, batch])
    assert both.marks is not None and both.marks.shape == (2, 20) and len(both.tensors) == 3


def test_a_stopped_training_goes_on_to_the_same_bytes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    rows, _ = noisy_rows(nlprompt(problem))
    rows = FewShotRows(features=rows.features + 0.1 * torch.randn_like(rows.features), labels=rows.labels)
    recipe = Recipe(epochs=5, batch_size=6, lr=0.5)

    def train(folder: Path | None, **more: object) -> bytes:
        started = nlprompt(problem)
        started.train(rows, recipe, folder=folder, **more)
        return started.learnables["context"].detach().numpy().tobytes()

    whole = train(None)
    with pytest.raises(Killed):
        train(tmp_path, on_epoch=raise_at(2))
    assert train(tmp_path) == whole
    assert train(None, mark_rows=None) != whole, "the marks matter"
