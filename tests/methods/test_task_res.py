"""TaskRes by hand: two classes, one step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden_cases import single_task_problem

from cptlite.methods.base import PromptOptions
from cptlite.methods.prompts.task_res import TaskRes
from cptlite.methods.templates import template_features, zero_shot_weights


def test_it_starts_as_zero_shot() -> None:
    problem = single_task_problem("fused")
    torch.testing.assert_close(TaskRes(problem, PromptOptions()).class_weights(), zero_shot_weights(problem))


def test_residuals_are_added_to_features_that_are_not_normalised() -> None:
    problem = single_task_problem("fused")
    method, texts = TaskRes(problem, PromptOptions()), template_features(problem)[0]
    assert (texts.norm(dim=-1) - 1).abs().min() > 0.1
    method.residuals.data[2, :3] = torch.tensor([1.0, -2.0, 4.0])
    moved = texts[2].clone()
    moved[:3] += torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(method.class_weights()[2], F.normalize(moved, dim=0))
    torch.testing.assert_close(method.class_weights()[:2], zero_shot_weights(problem)[:2])


def test_gradient_is_that_of_cross_entropy_through_the_normalisation() -> None:
    problem = single_task_problem("fused")
    method, texts = TaskRes(problem, PromptOptions()), template_features(problem)[0]
    image, label = torch.randn(1, 32), torch.tensor([1])
    method.backward(image, label)
    unit, scale = F.normalize(image[0], dim=0), torch.tensor(method.logit_scale).exp()
    norms = texts.norm(dim=-1, keepdim=True)
    weights = texts / norms
    pulls = F.softmax(scale * weights @ unit, dim=0) - F.one_hot(label[0], len(texts))
    along = unit - (weights @ unit)[:, None] * weights  # the part of the image that turns a weight
    assert method.residuals.grad is not None
    torch.testing.assert_close(method.residuals.grad, 0.5 * scale * pulls[:, None] * along / norms)
