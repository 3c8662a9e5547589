"""CoCoOp beyond parity: image by image by hand, scoring in chunks, and what a classifier keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.classifiers import ImageConditionedClassifier
from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.prompts.cocoop import CoCoOp, CoCoOpOptions
from cptlite.text.encoder import TEXT_PATHS, PromptEncoder, TextEncoder
from cptlite.training.recipe import Recipe

NAMES = ["fig", "kiwi", "sour plum"]
DIM = 32


def make_method(path: str = "fused", *, memory: float = 8.0, seed: int = 0, **options: object) -> Started:
    plain = text_encoder(path)
    text = TextEncoder(plain.tower, plain.tokenizer, path, memory=memory)
    problem = Problem(tasks=(make_task("fruit", NAMES),), text=text)
    return Started(CoCoOp(problem, CoCoOpOptions(**options)), seed)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(1)) * 5


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_each_image_has_prompts_of_its_own(path: str) -> None:
    started, batch = make_method(path), images(4)
    encode, learned = text_encoder("plain").prompts(NAMES, context_length=4), started.learnables
    for image, logits in zip(batch, started.logits(batch), strict=True):
        unit = image / image.norm()
        hidden = torch.relu(F.linear(unit, learned["hidden.weight"], learned["hidden.bias"]))
        context = learned["context"] + F.linear(hidden, learned["shift.weight"], learned["shift.bias"])  # (1, L, W)
        weights = F.normalize(encode(context[None])[0], dim=-1)  # (K, D)
        scale = torch.tensor(started.method.logit_scale).exp()
        torch.testing.assert_close(logits, scale * weights @ unit, rtol=1e-4, atol=1e-4)


def test_the_length_of_a_feature_does_not_matter() -> None:
    started = make_method()
    torch.testing.assert_close(started.logits(images(3)), started.logits(images(3) * 7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_scoring_in_chunks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.classifiers.image_conditioned.PROMPTS_AT_ONCE", 4 * len(NAMES))
    started, batch = make_method(), images(count)
    scores = started.classifier().scores(batch)
    assert scores.shape == (count, len(NAMES))
    assert not scores.requires_grad
    for image, row in zip(batch, scores, strict=True):
        torch.testing.assert_close(row, started.logits(image[None])[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(started.classifier().scores(batch, slice(1, 3)), scores[:, 1:3])


def test_chunks_of_one_size_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    prepare = PromptEncoder._prepare
    monkeypatch.setattr(PromptEncoder, "_prepare", lambda self, runs: prepared.append(runs) or prepare(self, runs))
    monkeypatch.setattr("cptlite.classifiers.image_conditioned.PROMPTS_AT_ONCE", 4 * len(NAMES))
    make_method().classifier().scores(images(9))
    assert prepared == [1, 4]  # when it was made, and the images of a chunk


def test_memory_bounds_what_is_encoded_at_once() -> None:
    whole, chunked = (make_method(memory=memory).classifier().scores(images(6)) for memory in (8.0, 1e-9))
    torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)


def test_a_classifier_stays_as_it_is() -> None:
    started, batch = make_method(), images(5)
    classifier = started.classifier()
    before = classifier.scores(batch)
    rows = FewShotRows(features=images(12)[:, None], labels=torch.arange(12) % 3)
    started.train(rows, Recipe(epochs=2, batch_size=3, lr=0.05))
    assert torch.equal(classifier.scores(batch), before)
    assert not torch.allclose(started.classifier().scores(batch), before)


def test_tensors_and_values_are_enough_to_score_again() -> None:
    classifier = make_method(position="middle").classifier()
    again = ImageConditionedClassifier.from_state(
        classifier.tensors(), classifier.values(), NAMES, lambda: text_encoder("plain")
    )
    torch.testing.assert_close(again.scores(images(3)), classifier.scores(images(3)), rtol=1e-4, atol=1e-4)


def test_a_seed_sets_the_start() -> None:
    starts = [make_method(seed=seed).learnables for seed in (1, 1, 2)]
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    assert not torch.equal(starts[0]["hidden.weight"], starts[2]["hidden.weight"])
    torch.testing.assert_close(starts[0]["context"][0].detach(), text_encoder("fused").word_vectors("a photo of a"))
    # nn.Linear's start is uniform within 1 / sqrt(inputs).
    assert 0.9 < float(starts[0]["hidden.weight"].detach().abs().max()) * DIM**0.5 <= 1


def test_the_net_starts_as_pytorchs_layers_do() -> None:
    """Number for number, from the same generator."""
    learned = make_method(seed=5, context_init="").learnables
    generator = torch.Generator().manual_seed(5)
    torch.randn(learned["context"].shape, generator=generator)
    torch.random.set_rng_state(generator.get_state())
    for name, layer in {"hidden": torch.nn.Linear(DIM, DIM // 16), "shift": torch.nn.Linear(DIM // 16, 128)}.items():
        assert torch.equal(learned[f"{name}.weight"], layer.weight)
        assert torch.equal(learned[f"{name}.bias"], layer.bias)


@pytest.mark.parametrize(("reduction", "hidden"), [(1, 32), (4, 8), (16, 2), (32, 1), (1000, 1)])
def test_reduction_sets_the_hidden_units(reduction: int, hidden: int) -> None:
    started = make_method(reduction=reduction)
    assert started.learnables["hidden.weight"].shape == (hidden, DIM)
    assert started.learnables["shift.weight"].shape == (128, hidden)
    assert started.classifier().scores(images(2)).shape == (2, len(NAMES))


def test_several_tasks_are_refused() -> None:
    tasks = (make_task("fruit", NAMES), make_task("animal", ["cat"]))
    with pytest.raises(UsageError, match="one task at a time, got 2 to learn jointly: give --separate"):
        CoCoOp(Problem(tasks=tasks, text=text_encoder("fused")), CoCoOpOptions())
