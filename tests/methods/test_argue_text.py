"""ArGue's text half beyond the recordings: unequal attributes, none, and some classes alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.methods.base import Problem
from cptlite.methods.class_texts import ClassTexts
from cptlite.methods.prompts.argue_text import ArgueText, ArgueTextOptions, certainty
from cptlite.methods.prompts.lasp_text import LaspText, LaspTextOptions

TASKS = (make_task("animal", ["cat", "red_dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
ATTRIBUTES = {
    "cat": ["catches mice", "Cat on a mat"],  # the first does not begin with the name, only with its letters
    "red dog": ["that barks"],
    "fig": ["ripe", "cut open", "fig_tree"],
    "kiwi": ["kiwi"],
    "plum": ["blue", "in a bowl"],
}
PROMPTS = [
    ["cat catches mice", "Cat on a mat"],
    ["red dog that barks"],
    ["fig ripe", "fig cut open", "fig tree"],
    ["kiwi"],
    ["plum blue", "plum in a bowl"],
]


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def test_weights_are_means_over_each_classs_own_attributes(problem: Problem) -> None:
    started = Started(ArgueText(problem, ArgueTextOptions(attributes=ClassTexts("attributes", ATTRIBUTES))))
    moved = torch.randn(2, 32)
    started.learnables["correction"].data[:] = moved
    classifier = started.classifier()
    for weight, texts, task in zip(classifier.tensors()["weights"], PROMPTS, problem.class_tasks, strict=True):
        units = F.normalize(
            problem.text.encode_texts([f"a photo of a {each}." for each in texts]) + moved[task], dim=-1
        )
        torch.testing.assert_close(weight, units.mean(dim=0), rtol=1e-4, atol=1e-5)
    images = torch.randn(4, 32)
    torch.testing.assert_close(classifier.scores(images), started.logits(images).detach(), rtol=1e-4, atol=1e-4)


def test_some_classes_have_the_weights_that_all_have(problem: Problem) -> None:
    method = ArgueText(problem, ArgueTextOptions(attributes=ClassTexts("attributes", ATTRIBUTES)))
    learnables = {name: value[None] for name, value in Started(method).learnables.items()}
    learnables["correction"] = torch.randn(1, 2, 32)
    assert method._encode_attributes.picking_saves(2 * 3)
    found = method.picked_weights(learnables, torch.tensor([[3, 1, -1]])[:, :2])
    torch.testing.assert_close(found, method.class_weights(learnables)[:, [3, 1]], rtol=1e-4, atol=1e-5)


def test_without_attributes_it_is_lasps_text_half(problem: Problem) -> None:
    images, labels = torch.randn(6, 32), torch.tensor([0, 1, 2, 3, 4, 4])
    ours, theirs = Started(ArgueText(problem, ArgueTextOptions())), Started(LaspText(problem, LaspTextOptions()))
    torch.testing.assert_close(ours.loss(images, labels), theirs.loss(images, labels), rtol=1e-5, atol=1e-5)


def test_certainty_by_hand() -> None:
    even, sure = torch.zeros(1, 1, 4), torch.tensor([[[0.0, -math.inf, -50.0, -50.0]]])
    two = torch.tensor([[[0.0, 0.0, -math.inf, -math.inf]]])
    label = torch.zeros(1, 1, dtype=torch.int64)
    torch.testing.assert_close(certainty([(even, label)]), torch.tensor([-math.log(4) / 4]))
    torch.testing.assert_close(certainty([(sure, label)]), torch.zeros(1))
    torch.testing.assert_close(certainty([(two, label), (sure, label)]), torch.tensor([-math.log(2) / 4]))
