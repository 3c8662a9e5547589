"""The plain path against CLIP's own text encoder."""

from __future__ import annotations

import clip
import pytest
import torch
from torch import Tensor, nn

from cptlite.backbones import Backbone, load_backbone
from cptlite.text.encoder import TextEncoder
from cptlite.text.layout import layout_prompts, layout_texts
from cptlite.text.plain import prepare_plain

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


def test_texts_are_encoded_as_clip_does(backbone: Backbone) -> None:
    texts = ["a photo of a dog.", "two red squares in a row"]
    layout = layout_texts(texts, backbone.tokenizer)
    ours = prepare_plain(backbone.text_tower, layout)(torch.zeros(0, backbone.text_tower.width))
    theirs = backbone.model.encode_text(clip.tokenize(texts))
    torch.testing.assert_close(ours, theirs, **CLOSE)
    encoder = TextEncoder(backbone.text_tower, backbone.tokenizer, "plain")
    torch.testing.assert_close(encoder.encode_texts(texts), theirs, **CLOSE)


def test_contexts_stand_where_word_embeddings_would(backbone: Backbone) -> None:
    """As in CoOp: the prompt is tokenized with placeholders, whose embeddings are replaced."""
    names, width = ["dog", "dog house", "A340-200"], backbone.text_tower.width
    contexts = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)) * 0.1
    owners = [1, 0, 1]
    ours, theirs = contexts.clone().requires_grad_(), contexts.clone().requires_grad_()

    def put_contexts(module: nn.Module, inputs: tuple[Tensor], words: Tensor) -> Tensor:
        return torch.cat([words[:, :1], theirs[owners], words[:, 4:]], dim=1)  # (P, 77, W)

    layout = layout_prompts(names, backbone.tokenizer, context_length=3, contexts=owners)
    hook = backbone.model.token_embedding.register_forward_hook(put_contexts)
    try:
        encoded = backbone.model.encode_text(clip.tokenize([f"X X X {name}." for name in names]))
    finally:
        hook.remove()
    features = prepare_plain(backbone.text_tower, layout)(ours.flatten(0, 1))
    torch.testing.assert_close(features, encoded, **CLOSE)
    for result in (features, encoded):
        (result * torch.randn(result.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)
