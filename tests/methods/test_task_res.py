"""TaskRes by hand: two classes, one step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_cases import single_task_problem
from started import Started

from cptlite.methods.prompts.task_res import TaskRes, TaskResOptions
from cptlite.methods.templates import template_features, zero_shot_weights


def make_started(**options: object) -> Started:
    return Started(TaskRes(single_task_problem("fused"), TaskResOptions(**options)))


def test_it_starts_as_zero_shot() -> None:
    torch.testing.assert_close(make_started().call("class_weights"), zero_shot_weights(single_task_problem("fused")))


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_residuals_are_added_to_features_that_are_not_normalised(strength: float) -> None:
    problem = single_task_problem("fused")
    started, texts = make_started(strength=strength), template_features(problem)[0]
    assert (texts.norm(dim=-1) - 1).abs().min() > 0.1
    residual = torch.tensor([1.0, -2.0, 4.0])
    started.learnables["residuals"].data[2, :3] = residual
    moved = texts[2].clone()
    moved[:3] += strength * residual
    weights = started.call("class_weights")
    torch.testing.assert_close(weights[2], F.normalize(moved, dim=0))
    torch.testing.assert_close(weights[:2], zero_shot_weights(problem)[:2])


def test_gradient_is_that_of_cross_entropy_through_the_normalisation() -> None:
    started, texts = make_started(), template_features(single_task_problem("fused"))[0]
    image, label = torch.randn(1, 32), torch.tensor([1])
    _, gradients = started.gradients(image, label)
    unit, scale = F.normalize(image[0], dim=0), torch.tensor(started.method.logit_scale).exp()
    norms = texts.norm(dim=-1, keepdim=True)
    weights = texts / norms
    pulls = F.softmax(scale * weights @ unit, dim=0) - F.one_hot(label[0], len(texts))
    along = unit - (weights @ unit)[:, None] * weights  # the part of the image that turns a weight
    torch.testing.assert_close(gradients["residuals"], 0.5 * scale * pulls[:, None] * along / norms)


def test_several_templates_start_from_the_mean_of_their_features() -> None:
    problem, templates = single_task_problem("fused"), ("a {} outdoors.", "one {}.")
    features = template_features(problem, templates)  # (E, K, D)
    assert len(features) == 2
    weights = make_started(templates=templates).call("class_weights")
    torch.testing.assert_close(weights, F.normalize(features[0] + features[1], dim=-1))
