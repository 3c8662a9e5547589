"""DAPT's text half beyond the recordings: pairs of one task alone, of the classes that are scored, and none at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.dapt_text import DaptText, DaptTextOptions, closeness

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]), make_task("sky", ["sun"]))


def crowding(**given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the term adds to the loss of a batch, (R,), and the class weights (R, K, D) that it is of."""
    problem = Problem(tasks=TASKS, text=text_encoder("fused"))
    batch = Batch(images=torch.randn(2, 4, 32), labels=torch.tensor([[0, 1, 3, 5], [2, 3, 2, 2]]), **given)
    learnables = {"context": 0.2 * torch.randn(2, 3, 4, 128)}
    off, on = (DaptText(problem, DaptTextOptions(context_length=4, strength=strength)) for strength in (0, 1))
    return on.loss(learnables, batch) - off.loss(learnables, batch), on.class_weights(learnables)


def pairs(weights: torch.Tensor, *classes: int) -> torch.Tensor:
    return torch.pdist(weights[list(classes)]).square().mul(-2).exp().mean()


def test_each_image_counts_the_pairs_of_its_own_task() -> None:
    found, weights = crowding()
    one = pairs(weights[0], 0, 1) / 2 + pairs(weights[0], 2, 3, 4) / 4  # and a task of one class adds nothing
    torch.testing.assert_close(found, torch.stack([one, pairs(weights[1], 2, 3, 4)]), rtol=1e-4, atol=1e-6)


def test_pairs_are_of_the_classes_that_are_scored() -> None:
    found, weights = crowding(classes=torch.tensor([[0, 1, 3, 5, -1], [1, 2, 3, -1, -1]]))
    wanted = torch.stack([pairs(weights[0], 0, 1) / 2, pairs(weights[1], 2, 3)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_class_alone_has_no_pair_and_no_gradient() -> None:
    weights = F.normalize(torch.randn(1, 1, 8), dim=-1).requires_grad_()
    near = closeness(weights, torch.zeros(1, 1, dtype=torch.int64))
    near.sum().backward()
    assert near.item() == 0 and weights.grad is not None and not weights.grad.any()
