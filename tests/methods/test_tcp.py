"""TCP: its net by hand, where it enters, tasks apart, classes picked, and the optimizer that it is stepped by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.config import resolve_config
from cptlite.errors import UsageError
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.kgcoop import KgCoOp
from cptlite.methods.prompts.tcp import TCP, TCPOptions
from cptlite.methods.templates import zero_shot_weights
from cptlite.text.encoder import TEXT_PATHS
from cptlite.training.recipe import Recipe
from cptlite.training.state import new_optimizer

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
IMAGES, LABELS = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 2, 1, 3, 4])


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def test_class_prompts_are_the_nets_of_the_templates_weights(problem: Problem) -> None:
    started = Started(TCP(problem, TCPOptions(context_length=2)))
    own = {name: value.detach() for name, value in started.learnables.items()}
    assert own["hidden.weight"].shape == (2, 8, 32) and own["prompt.weight"].shape == (2, 2 * 128, 8)
    found, zero_shot = started.call("class_prompts"), zero_shot_weights(problem)
    for index, task in enumerate([0, 0, 1, 1, 1]):
        hidden = own["hidden.weight"][task] @ zero_shot[index] + own["hidden.bias"][task]
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        wanted = own["prompt.weight"][task] @ hidden + own["prompt.bias"][task]
        torch.testing.assert_close(found[index].flatten(), wanted, rtol=1e-4, atol=1e-5)


def test_the_block_is_two_thirds_down_unless_it_is_given(problem: Problem) -> None:
    assert TCP(problem, TCPOptions())._encode.block == 2  # of 3
    assert TCP(problem, TCPOptions(block=1))._encode.block == 1
    with pytest.raises(UsageError, match="block must be from 1 to 2 in a text tower of 3 blocks, got 7"):
        TCP(problem, TCPOptions(block=7))


def test_a_task_among_others_has_the_gradients_of_its_share(problem: Problem) -> None:
    joint = Started(TCP(problem, TCPOptions()))
    alone = Started(TCP(Problem(tasks=TASKS[1:], text=problem.text), TCPOptions()))
    for name, value in alone.learnables.items():
        value.data = joint.learnables[name].data[1:].clone()
    torch.testing.assert_close(joint.call("class_weights")[2:], alone.call("class_weights"), rtol=1e-4, atol=1e-5)
    of_fruit = LABELS >= 2
    _, own = alone.gradients(IMAGES[of_fruit], LABELS[of_fruit] - 2)
    _, shared = joint.gradients(IMAGES, LABELS)
    for name, gradient in own.items():
        assert (shared[name][1] - gradient[0] * 4 / 6).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_of_some_classes_the_loss_is_over_these(path: str) -> None:
    """Against KgCoOp's loss of some classes, on the same weights."""
    problem = Problem(tasks=TASKS, text=text_encoder(path))
    started = Started(TCP(problem, TCPOptions()))
    rows = LABELS != 1
    classes = torch.tensor([[0, 2, 3, 4, -1]])
    batch = Batch(images=IMAGES[rows][None], labels=LABELS[rows][None], classes=classes)
    weights, zero_shot = started.call("class_weights").detach(), zero_shot_weights(problem)
    terms, exp = [], torch.tensor(problem.text.tower.logit_scale).exp()
    for image, label in zip(F.normalize(IMAGES[rows], dim=-1), LABELS[rows].tolist(), strict=True):
        own = [0] if label < 2 else [2, 3, 4]
        entropy = F.cross_entropy(exp * weights[own] @ image, torch.tensor(own.index(label)))
        terms.append(entropy + 8 * (1 - (weights[own] * zero_shot[own]).sum(dim=-1).mean()))
    loss, gradients = started.method.gradients(started.stacked(), batch)
    torch.testing.assert_close(loss[0], torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_the_pull_is_kgcoops(problem: Problem) -> None:
    off, on = (Started(TCP(problem, TCPOptions(strength=strength))) for strength in (0.0, 8.0))
    weights = off.call("class_weights").detach()
    assert issubclass(TCP, KgCoOp)
    cosines = (weights * zero_shot_weights(problem)).sum(dim=-1)
    pulls = torch.stack([1 - cosines[:2].mean(), 1 - cosines[2:].mean()])
    wanted = 8 * pulls[(LABELS >= 2).long()].mean()
    torch.testing.assert_close((on.loss(IMAGES, LABELS) - off.loss(IMAGES, LABELS)).detach(), wanted, rtol=1e-3, atol=0)


# Its optimizer


def test_adam_has_the_decay_in_the_gradient_and_its_own_epsilon() -> None:
    recipe = resolve_config({"method": "tcp", "suite": "s", "datasets": ("a",), "backbone": "b"}).recipe
    assert recipe is not None and (recipe.optimizer, recipe.adam_eps, recipe.epochs) == ("adam", 1e-3, 50)
    value = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = new_optimizer(recipe, {"value": value}, {})
    value.grad = torch.tensor([0.01, -0.02])
    gradient = value.grad + recipe.weight_decay * value.detach()
    wanted = value.detach() - recipe.lr * gradient / (
        gradient.abs() + 1e-3
    )  # the first step, whose means are corrected
    optimizer.step()
    torch.testing.assert_close(value.detach(), wanted)


def test_momentum_is_adams_first_beta() -> None:
    with pytest.raises(UsageError, match="momentum must be below 1 with adam, whose first beta it is, got 1"):
        Recipe(optimizer="adam", momentum=1.0)
