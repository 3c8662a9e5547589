"""LASP's text half beyond the recordings: its list, tasks on their own, and what a correction moves."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.lasp_text import LaspText, LaspTextOptions
from cptlite.methods.prompts.text_to_text import TEMPLATES

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
SHORT = ("a photo of a {}.", "{} outdoors.")


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def test_the_list_is_as_long_as_theirs_and_is_what_is_read_without_another(problem: Problem) -> None:
    assert len(TEMPLATES) == 35 and all(template.count("{}") == 1 for template in TEMPLATES)
    assert LaspText(problem, LaspTextOptions()).references.shape == (35, 5, 32)
    (reference,) = F.normalize(problem.text.encode_texts(["a origami kiwi."]), dim=-1)
    torch.testing.assert_close(LaspText(problem, LaspTextOptions()).references[7, 3], reference, rtol=1e-4, atol=1e-6)


def test_texts_are_classified_among_their_own_task(problem: Problem) -> None:
    method = LaspText(problem, LaspTextOptions(templates=SHORT))
    weights = F.normalize(torch.randn(1, 5, 32), dim=-1)
    labels = torch.tensor([[0, 2, 2, 4]])
    found = method.text_to_text(Batch(images=torch.zeros(1, 4, 32), labels=labels), weights)
    logits = math.exp(problem.text.tower.logit_scale) * method.references @ weights[0].mT  # (G, K, K)
    own = [
        torch.stack([F.cross_entropy(each[start:stop, start:stop], torch.arange(stop - start)) for each in logits])
        for start, stop in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(found[0], own[0].mean() / 4 + own[1].mean() * 3 / 4, rtol=1e-4, atol=1e-4)


def test_a_correction_moves_its_own_task_and_comes_into_the_classifier(problem: Problem) -> None:
    started = Started(LaspText(problem, LaspTextOptions()))
    before = started.classifier().tensors()["weights"]
    texts = problem.text.encode_texts([f"a photo of a {name}." for name in problem.class_names])
    torch.testing.assert_close(before, F.normalize(texts, dim=-1), rtol=1e-4, atol=1e-5)
    moved = torch.randn(32)
    started.learnables["correction"].data[1] = moved
    after = started.classifier().tensors()["weights"]
    assert torch.equal(after[:2], before[:2])
    torch.testing.assert_close(after[2:], F.normalize(texts[2:] + moved, dim=-1), rtol=1e-4, atol=1e-5)
