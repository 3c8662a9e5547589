"""CoCoOp beyond parity: image by image by hand, scoring in chunks, and what a classifier keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder

from cptlite.classifiers import ImageConditionedClassifier
from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptOptions
from cptlite.methods.prompts.cocoop import CoCoOp
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.training.loop import Recipe, train_prompts

NAMES = ["fig", "kiwi", "sour plum"]
DIM = 32
OPTIONS = PromptOptions(context_init="a photo of a")


def make_method(path: str = "fused", *, memory: float = 8.0, seed: int = 0) -> CoCoOp:
    plain = text_encoder(path)
    text = TextEncoder(plain.tower, plain.tokenizer, path, memory=memory)
    torch.manual_seed(seed)
    return CoCoOp(Problem(tasks=(make_task("fruit", NAMES),), text=text), OPTIONS)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(1)) * 5


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_each_image_has_prompts_of_its_own(path: str) -> None:
    method, batch = make_method(path), images(4)
    encode = text_encoder("plain").prompts(NAMES, context_length=4)
    for image, logits in zip(batch, method.classifier_logits(batch), strict=True):
        unit = image / image.norm()
        context = method.context + method.shift(torch.relu(method.hidden(unit)))
        weights = F.normalize(encode(context), dim=-1)  # (K, D)
        wanted = method.problem.text.tower.logit_scale
        torch.testing.assert_close(logits, torch.tensor(wanted).exp() * weights @ unit, rtol=1e-4, atol=1e-4)


def test_the_length_of_a_feature_does_not_matter() -> None:
    method = make_method()
    torch.testing.assert_close(
        method.classifier_logits(images(3)), method.classifier_logits(images(3) * 7), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_scoring_in_chunks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.classifiers.image_conditioned.PROMPTS_AT_ONCE", 4 * len(NAMES))
    method, batch = make_method(), images(count)
    scores = method.classifier().scores(batch)
    assert scores.shape == (count, len(NAMES))
    assert not scores.requires_grad
    for image, row in zip(batch, scores, strict=True):
        torch.testing.assert_close(row, method.classifier_logits(image[None])[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.classifier().scores(batch, slice(1, 3)), scores[:, 1:3])


def test_chunks_of_one_size_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    prepare = TextEncoder._prepare
    monkeypatch.setattr(TextEncoder, "_prepare", lambda self, layout: prepared.append(0) or prepare(self, layout))
    monkeypatch.setattr("cptlite.classifiers.image_conditioned.PROMPTS_AT_ONCE", 4 * len(NAMES))
    make_method().classifier().scores(images(9))
    assert len(prepared) == 1


def test_memory_bounds_what_is_encoded_at_once() -> None:
    whole, chunked = (make_method(memory=memory).classifier().scores(images(6)) for memory in (8.0, 1e-9))
    torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)


def test_a_classifier_stays_as_it_is() -> None:
    method, batch = make_method(), images(5)
    classifier = method.classifier()
    before = classifier.scores(batch)
    rows = FewShotRows(features=images(12)[:, None], labels=torch.arange(12) % 3)
    train_prompts(method, rows, Recipe(epochs=2, batch_size=3, lr=0.05), seed=1)
    assert torch.equal(classifier.scores(batch), before)
    assert not torch.allclose(method.classifier().scores(batch), before)


def test_arrays_are_enough_to_score_again() -> None:
    classifier = make_method().classifier()
    arrays = classifier.arrays()
    learned = {name: torch.from_numpy(value) for name, value in arrays.items() if value.ndim}
    encode = text_encoder("plain").prompts(
        NAMES, context_length=arrays["context"].shape[-2], position=str(arrays["position"])
    )
    again = ImageConditionedClassifier(
        **learned,
        encode=encode,
        logit_scale=float(arrays["logit_scale"]),
        position=str(arrays["position"]),
        num_classes=len(NAMES),
    )
    torch.testing.assert_close(again.scores(images(3)), classifier.scores(images(3)), rtol=1e-4, atol=1e-4)


def test_a_seed_sets_the_start() -> None:
    starts = [dict(make_method(seed=seed).named_parameters()) for seed in (1, 1, 2)]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    assert not torch.equal(starts[0]["hidden.weight"], starts[2]["hidden.weight"])
    torch.testing.assert_close(starts[0]["context"][0], text_encoder("fused").word_vectors("a photo of a"))
    # nn.Linear's start is uniform within 1 / sqrt(inputs).
    assert 0.9 < float(starts[0]["hidden.weight"].detach().abs().max()) * DIM**0.5 <= 1


def test_several_tasks_are_refused() -> None:
    tasks = (make_task("fruit", NAMES), make_task("animal", ["cat"]))
    with pytest.raises(UsageError, match="one task at a time, got 2 to learn jointly: give --separate"):
        CoCoOp(Problem(tasks=tasks, text=text_encoder("fused")), OPTIONS)
