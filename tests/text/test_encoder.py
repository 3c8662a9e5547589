"""The packed text path against its slow twin, features and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_cases import golden_backbone, text_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlite.backbones.clip import load_backbone
from cptlite.errors import UsageError
from cptlite.text.encoder import TextEncoder
from cptlite.text.layout import POSITIONS

WORDS = ["a", "dog", "dog house", "red", "red panda", "737-200", "737-300", "A340", "St.", "über", "x_y"]


def compare_paths(names: list[str], contexts: list[int], length: int, position: str, seed: int = 0) -> None:
    """Features and context gradients of both paths agree to 1e-5."""
    width = golden_backbone().text_tower.width
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(max(contexts) + 1, length, width, generator=generator) * 0.1
    results = []
    for path in ("plain", "fused"):
        vectors = start.clone().requires_grad_()
        encode = text_encoder(path).prompts(names, context_length=length, contexts=contexts, position=position)
        features = encode(vectors)
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        (features * weights).sum().backward()
        results.append((features.detach(), vectors.grad))
    for plain, fused in zip(*results, strict=True):
        assert (plain - fused).abs().max() <= 1e-5 * plain.abs().max().clamp(min=1e-12)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
    length=st.integers(1, 9),
    position=st.sampled_from(POSITIONS),
    sharing=st.sampled_from(["all", "two", "each"]),
)
def test_paths_agree(names: list[str], length: int, position: str, sharing: str) -> None:
    contexts = {
        "all": [0] * len(names),
        "two": [i % 2 for i in range(len(names))],
        "each": list(range(len(names))),
    }[sharing]
    compare_paths(names, contexts, length, position)


@pytest.mark.parametrize(
    ("names", "contexts"),
    [
        (["dog"], [0]),
        (["dog", "dog house", "dog house keeper"], [0, 0, 0]),
        (["dog", "dog"], [0, 1]),
        (["dog", "dog"], [0, 0]),
        ([" ".join(["word"] * 60)], [0]),
    ],
    ids=["one", "prefixes", "equal in two tasks", "equal in one", "60 tokens"],
)
def test_edges(names: list[str], contexts: list[int]) -> None:
    compare_paths(names, contexts, 4, "end")


def test_empty_context_is_the_bare_name() -> None:
    for path in ("plain", "fused"):
        text = text_encoder(path)
        bare = text.prompts(["red panda"], context_length=0)(torch.zeros(1, 0, text.tower.width))
        torch.testing.assert_close(bare, text.encode_texts(["red panda."]), rtol=1e-5, atol=1e-6)


def test_plain_path_is_clips_own_encoder() -> None:
    import clip

    backbone = load_backbone("random:demo")
    texts = ["a photo of a dog.", "two red squares in a row"]
    ours = TextEncoder(backbone.text_tower, backbone.tokenizer, "plain").encode_texts(texts)
    np.testing.assert_allclose(ours, backbone.model.encode_text(clip.tokenize(texts)), rtol=1e-5, atol=1e-6)


def test_unknown_path_and_empty_words() -> None:
    with pytest.raises(UsageError, match="unknown text path 'fast'"):
        text_encoder("fast")
    with pytest.raises(UsageError, match="at least one word"):
        text_encoder("plain").word_vectors(" ")
