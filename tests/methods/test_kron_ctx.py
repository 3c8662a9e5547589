"""Contexts mixed of base vectors: the equation, where they start, and centres that are found once."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from golden_cases import golden_backbone, make_task, text_encoder
from started import Started

from cptlite.methods.base import Problem
from cptlite.methods.prompts import kron_ctx as module
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.kron_ctx import KronCtx, KronCtxOptions, kronecker_product, token_centres

TASKS = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))


@pytest.fixture
def problem() -> Problem:
    return Problem(tasks=TASKS, text=text_encoder("fused"))


def test_the_product_is_kroneckers() -> None:
    outer, inner = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 7)
    found = kronecker_product(outer, inner)
    assert found.shape == (2, 3, 24, 35)
    torch.testing.assert_close(found[1, 2], torch.kron(outer[1, 2], inner[1, 2]))


def test_contexts_are_mixtures_of_centres_and_what_is_learned(problem: Problem) -> None:
    started = Started(KronCtx(problem, KronCtxOptions(context_length=3)))
    learned = started.learnables
    centres = token_centres(problem.text.tower, 64)
    assert {name: tuple(value.shape) for name, value in learned.items()} == {
        "mixture": (2, 3, 64),
        "outer": (2, 4, 16),
        "inner": (2, 16, 8),
    }
    for task, found in enumerate(started.call("contexts")):  # they begin at mixtures of centres
        torch.testing.assert_close(found, learned["mixture"][task] @ centres, rtol=1e-4, atol=1e-6)
    for value in learned.values():
        value.data += torch.randn(value.shape)
    for task, found in enumerate(started.call("contexts")):
        bases = centres + torch.kron(learned["outer"][task], learned["inner"][task])
        torch.testing.assert_close(found, learned["mixture"][task] @ bases, rtol=1e-4, atol=1e-4)


def test_the_rest_is_coop(problem: Problem) -> None:
    kron, coop = Started(KronCtx(problem, KronCtxOptions())), Started(CoOp(problem, module.PromptOptions()))
    coop.learnables["context"].data[:] = kron.call("contexts").detach()
    images, labels = torch.randn(6, 32), torch.tensor([0, 1, 2, 3, 4, 4])
    torch.testing.assert_close(kron.loss(images, labels), coop.loss(images, labels))
    _, gradients = kron.gradients(images, labels)
    assert gradients["mixture"].any() and gradients["inner"].any()


def test_centres_are_near_the_words_and_found_once_for_a_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Watched(module.MiniBatchKMeans):
        def fit(self, words: object) -> object:
            made.append(self.n_clusters)
            return super().fit(words)

    monkeypatch.setattr(module, "MiniBatchKMeans", Watched)
    words = golden_backbone().text_tower.token_embedding.detach()[:3000]
    tower, other = (replace(golden_backbone().text_tower, token_embedding=words) for _ in range(2))
    first, again, fewer = token_centres(tower, 24), token_centres(tower, 24), token_centres(tower, 8)
    assert first is again and made == [24, 8] and fewer.shape == (8, 128) and not first.requires_grad
    drawn = words[torch.randperm(len(words))[:24]]
    near = [torch.cdist(words, each).min(dim=1).values.square().mean() for each in (first, drawn)]
    assert near[0] < 0.8 * near[1]
    assert torch.equal(token_centres(other, 24), first), "the same weights have the same centres"
    count = len(module._CENTRES)
    del tower, other
    gc.collect()
    assert len(module._CENTRES) <= count - 2


def test_more_bases_than_a_factor_divides(problem: Problem) -> None:
    started = Started(KronCtx(problem, KronCtxOptions(num_bases=6, context_length=2)))
    assert [tuple(value.shape[1:]) for value in started.learnables.values()] == [(2, 6), (3, 16), (2, 8)]
    assert started.call("class_weights").shape == (5, 32)
