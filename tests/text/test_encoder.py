"""The packed text path against its slow twin, features and gradients, on one run and on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_cases import golden_backbone, text_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cptlite.errors import UsageError
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.text.layout import POSITIONS

WORDS = ["a", "dog", "dog house", "red", "red panda", "737-200", "737-300", "A340", "St.", "über", "x_y"]
NAMES = ["dog", "red panda", "dog house", "x_y", "dog", "737-200", "737-300"]
OWNERS = [0, 0, 0, 1, 1, 2, 2]
ONE_CHUNK_A_PROMPT = 1e-9


def draw_contexts(runs: int, count: int, length: int) -> Tensor:
    """Contexts (R, C, L, W), the same for the first runs whatever R."""
    width = golden_backbone().text_tower.width
    return torch.randn(runs, count, length, width, generator=torch.Generator().manual_seed(0)) * 0.1


def features_and_gradient(
    path: str,
    contexts: Tensor,
    names: Sequence[str] = NAMES,
    owners: Sequence[int] = OWNERS,
    *,
    position: str = "end",
    memory: float = 8.0,
    prepared: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Features (R, P, D), and a gradient in the contexts (R, C, L, W); of a run, the same whatever R."""
    text = TextEncoder(golden_backbone().text_tower, golden_backbone().tokenizer, path, memory=memory)
    encode = text.prompts(
        names,
        context_length=contexts.shape[2],
        contexts=owners,
        position=position,
        runs=len(contexts) if prepared is None else prepared,
    )
    leaf = contexts.clone().requires_grad_()
    features = encode(leaf)
    assert features.shape == (len(contexts), len(names), text.tower.projection.shape[1])
    assert features.dtype == torch.float32
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert leaf.grad is not None
    return features.detach(), leaf.grad


def assert_agree(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Equal to 1e-5 of the largest number."""
    for one, other in zip(wanted, given, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
    length=st.integers(1, 9),
    position=st.sampled_from(POSITIONS),
    sharing=st.sampled_from(["all", "two", "each"]),
    runs=st.integers(1, 3),
)
def test_paths_agree(names: list[str], length: int, position: str, sharing: str, runs: int) -> None:
    owners = {
        "all": [0] * len(names),
        "two": [i % 2 for i in range(len(names))],
        "each": list(range(len(names))),
    }[sharing]
    contexts = draw_contexts(runs, max(owners) + 1, length)
    plain, fused = (
        features_and_gradient(path, contexts, names, owners, position=position) for path in ("plain", "fused")
    )
    assert_agree(plain, fused)


@pytest.mark.parametrize(
    ("names", "owners"),
    [
        (["dog"], [0]),
        (["dog", "dog house", "dog house keeper"], [0, 0, 0]),
        (["dog", "dog"], [0, 1]),
        (["dog", "dog"], [0, 0]),
        ([" ".join(["word"] * 60)], [0]),
        ([f"{word} {other}" for word in WORDS for other in WORDS[:4]], [0] * len(WORDS) * 4),
    ],
    ids=["one", "prefixes", "equal in two tasks", "equal in one", "60 tokens", "several blocks"],
)
@pytest.mark.parametrize("runs", [1, 2])
def test_edges(names: list[str], owners: list[int], runs: int) -> None:
    contexts = draw_contexts(runs, max(owners) + 1, 4)
    assert_agree(*(features_and_gradient(path, contexts, names, owners) for path in ("plain", "fused")))


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_a_run_among_others_is_as_alone(path: str, runs: int) -> None:
    contexts = draw_contexts(runs, 3, 4)
    features, _ = features_and_gradient(path, contexts)
    for run in range(runs):
        alone, _ = features_and_gradient(path, contexts[run : run + 1])
        assert_agree([alone], [features[run : run + 1]])


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("prepared", [1, 2, 5])
def test_another_number_of_runs_than_prepared(path: str, prepared: int) -> None:
    contexts = draw_contexts(3, 3, 4)
    given = features_and_gradient(path, contexts, prepared=prepared)
    for one, other in zip(features_and_gradient(path, contexts), given, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("num_chunks", [3, "all"])
def test_chunks_change_nothing(path: str, runs: int, num_chunks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts, tower = draw_contexts(runs, 3, 4), golden_backbone().text_tower
    whole = features_and_gradient(path, contexts)
    sizes = watch_preparing(path, monkeypatch)
    monkeypatch.setattr("cptlite.text.encoder.KEPT_PER_LAYER", 1 / (tower.width * len(tower.blocks) * 4))  # 1 byte
    monkeypatch.setitem(TEXT_PATHS, path, replace(TEXT_PATHS[path], count_rows=lambda *_: 300))
    memory = 100 / 2**30 if num_chunks == 3 else ONE_CHUNK_A_PROMPT
    assert_agree(whole, features_and_gradient(path, contexts, memory=memory))
    # 7 and 21 prompts.
    assert sizes == ([1] * 7 * runs if num_chunks == "all" else [2, 2, 3] if runs == 1 else [7, 7, 7])


def watch_preparing(path: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts of each layout that is prepared from now on."""
    sizes: list[int] = []
    prepare = TEXT_PATHS[path].prepare

    def watched(tower: Any, layout: Any) -> Any:
        sizes.append(len(layout))
        return prepare(tower, layout)

    monkeypatch.setitem(TEXT_PATHS, path, replace(TEXT_PATHS[path], prepare=watched))
    return sizes


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_a_chunk_keeps_nothing_for_the_backward(path: str) -> None:
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    counts = []
    for memory in (8.0, ONE_CHUNK_A_PROMPT):
        text = TextEncoder(golden_backbone().text_tower, golden_backbone().tokenizer, path, memory=memory)
        encode = text.prompts(NAMES, context_length=4, contexts=OWNERS)
        leaf = draw_contexts(1, 3, 4).requires_grad_()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encode(leaf)
        counts.append(sum(kept))
    assert counts[1] < counts[0] / 10


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_prompts_are_prepared_when_made_and_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = watch_preparing(path, monkeypatch)
    encode = text_encoder(path).prompts(NAMES, context_length=4, contexts=OWNERS, runs=2)
    assert sizes == [14]
    encode(draw_contexts(2, 3, 4))
    assert sizes == [14]
    for _ in range(2):
        encode(draw_contexts(3, 3, 4))
    encode(draw_contexts(2, 3, 4))
    assert sizes == [14, 21]


@pytest.mark.parametrize("shape", [(3, 4), (1, 2, 4), (1, 3, 3)])
def test_contexts_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    encode = text_encoder("fused").prompts(NAMES, context_length=4, contexts=OWNERS)
    with pytest.raises(AssertionError, match=r"wanted contexts of shape \(R, C, L, W\) with C \* L = 12, got \("):
        encode(torch.zeros(*shape, golden_backbone().text_tower.width))


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_empty_context_is_the_bare_name(path: str) -> None:
    text = text_encoder(path)
    bare = text.prompts(["red panda"], context_length=0, runs=2)(torch.zeros(2, 1, 0, text.tower.width))
    wanted = text.encode_texts(["red panda."])
    torch.testing.assert_close(bare, wanted.expand(2, 1, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_a_context_of_words_is_their_text(path: str) -> None:
    text = text_encoder(path)
    vectors = text.word_vectors("a_photo of a")
    encode = text.prompts(["dog", "red panda"], context_length=len(vectors))
    wanted = text.encode_texts(["a photo of a dog.", "a photo of a red panda."])
    torch.testing.assert_close(encode(vectors[None, None])[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", [8.0, ONE_CHUNK_A_PROMPT])
def test_paths_agree_on_texts(memory: float) -> None:
    tower, tokenizer = golden_backbone().text_tower, golden_backbone().tokenizer
    plain, fused = (TextEncoder(tower, tokenizer, path, memory=memory).encode_texts(WORDS) for path in TEXT_PATHS)
    assert_agree([plain], [fused])


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_texts_have_no_gradient(path: str) -> None:
    tower = golden_backbone().text_tower
    learnable = replace(tower, projection=tower.projection.clone().requires_grad_())
    text = TextEncoder(learnable, golden_backbone().tokenizer, path)
    assert text.prompts(["dog"], context_length=1)(draw_contexts(1, 1, 1)).requires_grad
    assert not text.encode_texts(["dog"]).requires_grad


def test_unknown_path_and_empty_words() -> None:
    with pytest.raises(UsageError, match="unknown text path 'fast'"):
        text_encoder("fast")
    with pytest.raises(UsageError, match="at least one word"):
        text_encoder("plain").word_vectors(" ")
