"""DePT's two heads: losses and scores written out, its classifier, and the rate of its own parts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started
from training_fakes import Killed, raise_at

from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.dept import DePT, DePTOptions
from cptlite.training.recipe import Recipe

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
OFFSETS, SIZES = [0, 0, 2, 2, 2], [2, 2, 3, 3, 3]  # of each class's task
IMAGES, LABELS = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 1, 3, 4])


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def dept(problem: Problem, **given: float) -> Started:
    """Moved away from films of ones and zeros."""
    started = Started(DePT(problem, DePTOptions(context_length=4, **given)))
    for index, value in enumerate(started.learnables.values()):
        value.data += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(index))
    return started


def slow_heads(started: Started, image: torch.Tensor, task: int, film: str) -> torch.Tensor:
    """The linear head's scores of one raw feature, as the film of a task shows it to all classes."""
    own = {name: value.detach() for name, value in started.learnables.items()}
    shown = own[f"{film}.scale"][task] * image + own[f"{film}.bias"][task]
    return own["head.weight"] @ shown + own["head.bias"]


def slow_loss(started: Started, kept: list[int], rows: list[int], share: float) -> torch.Tensor:
    """Image by image over the classes of its task that are kept."""
    texts = started.method._encode(started.stacked()["context"])[0].detach()
    scale, terms = math.exp(started.method.logit_scale), []
    for row in rows:
        image, label = IMAGES[row], int(LABELS[row])
        own = [k for k in kept if OFFSETS[k] == OFFSETS[label]]
        place, task = torch.tensor(own.index(label)), int(OFFSETS[label] > 0)
        cosines = scale * F.normalize(texts[own], dim=-1) @ F.normalize(image, dim=0)
        of_image = slow_heads(started, image, task, "image_film")[own]
        of_text = slow_heads(started, texts[label], task, "text_film")[own]
        linear = (F.cross_entropy(of_image, place) + F.cross_entropy(of_text, place)) / 2
        terms.append((1 - share) * F.cross_entropy(cosines, place) + share * linear)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_loss_is_of_images_and_of_the_texts_of_their_classes(problem: Problem, share: float) -> None:
    started = dept(problem, linear_share=share)
    wanted = slow_loss(started, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], share)
    torch.testing.assert_close(started.loss(IMAGES, LABELS), wanted, rtol=1e-4, atol=1e-4)
    order = LABELS.argsort()
    by_task = Batch(images=IMAGES[order][None], labels=LABELS[order][None], task_rows=(2, 4))
    loss = started.method.loss(started.stacked(), by_task)[0]
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["fused", "plain"])
@pytest.mark.parametrize("classes", [[0, 2, 4], [0, -1, 2, -1, 4], [0, 2, 3, 4, -1]])
def test_of_some_classes_both_heads_are_over_these(classes: list[int], path: str) -> None:
    started = dept(Problem(tasks=TASKS, text=text_encoder(path)))
    rows = [row for row, label in enumerate(LABELS.tolist()) if label in classes]
    batch = Batch(images=IMAGES[rows][None], labels=LABELS[rows][None], classes=torch.tensor([classes]))
    wanted = slow_loss(started, [k for k in classes if k >= 0], rows, 0.7)
    torch.testing.assert_close(started.method.loss(started.stacked(), batch)[0], wanted, rtol=1e-4, atol=1e-4)


def test_scores_are_both_heads_in_their_shares(problem: Problem) -> None:
    started = dept(problem, linear_share=0.25)
    weights, scale = started.call("class_weights").detach(), math.exp(started.method.logit_scale)
    cosines = scale * F.normalize(IMAGES, dim=-1) @ weights.T
    linear = torch.stack(
        [
            torch.stack([slow_heads(started, image, int(OFFSETS[k] > 0), "image_film")[k] for k in range(5)])
            for image in IMAGES
        ]
    )
    wanted = 0.75 * cosines + 0.25 * linear
    torch.testing.assert_close(started.logits(IMAGES).detach(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(started.classifier().scores(IMAGES), wanted, rtol=1e-4, atol=1e-4)


def test_with_no_share_of_the_linear_head_it_is_coop(problem: Problem) -> None:
    started = dept(problem, linear_share=0.0)
    _, gradients = started.gradients(IMAGES, LABELS)
    assert gradients["context"].abs().max() > 0
    assert all(not value.any() for name, value in gradients.items() if name != "context")


# The rate of the new parts


ROWS = FewShotRows(features=IMAGES[:, None], labels=LABELS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_new_parts_step_at_their_own_rate(problem: Problem, optimizer: str) -> None:
    """One step without decay: so many times as far along the same gradient."""
    recipe = Recipe(epochs=1, warmup_epochs=0, lr=0.1, weight_decay=0.0, optimizer=optimizer)
    moves = {}
    for factor in (1.0, 6.5):
        started = dept(problem, head_rate=factor)
        before = {name: value.detach().clone() for name, value in started.learnables.items()}
        started.train(ROWS, recipe)
        moves[factor] = {name: value.detach() - before[name] for name, value in started.learnables.items()}
    for name, move in moves[1.0].items():
        factor = 1.0 if name == "context" else 6.5
        assert move.abs().max() > 0
        torch.testing.assert_close(moves[6.5][name], factor * move, rtol=2e-3, atol=2e-3 * float(move.abs().max()))


def test_a_stopped_training_goes_on_to_the_same_bytes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    recipe = Recipe(epochs=4, batch_size=2, lr=0.01)

    def train(folder: Path | None, **more: object) -> dict[str, bytes]:
        started = dept(problem)
        started.train(ROWS, recipe, folder=folder, **more)
        return {name: value.detach().numpy().tobytes() for name, value in started.learnables.items()}

    whole = train(None)
    with pytest.raises(Killed):
        train(tmp_path, on_epoch=raise_at(2))
    assert train(tmp_path) == whole
    # Without the rates of its own it is another training.
    other = dept(problem)
    other.train(ROWS, recipe, rate_factors={})
    assert {name: value.detach().numpy().tobytes() for name, value in other.learnables.items()} != whole
