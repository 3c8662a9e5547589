"""Some of the prompts of a layout against all of them: features and gradients, whichever are picked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden_cases import golden_backbone
from test_encoder import ONE_CHUNK_A_PROMPT, assert_agree, draw_contexts
from torch import Tensor

from cptlite.backbones import load_backbone
from cptlite.text.encoder import TEXT_PATHS, PromptEncoder, TextEncoder
from cptlite.text.layout import POSITIONS
from cptlite.training.sampling import ClassSampler

NAMES = ["dog", "red panda", "dog house", "x_y", "dog", "737-200", "a long name of seven words", "737-300"]
OWNERS = {"all": [0] * 8, "task": [0, 0, 0, 1, 1, 2, 2, 2], "each": list(range(8))}
PICKS = ([3, 0, -1, 6, 4], [7, 6, 5, 1, 2], [1, -1, -1, -1, 0])


def encoder(path: str, sharing: str, length: int, position: str = "end", memory: float = 8.0) -> PromptEncoder:
    text = TextEncoder(golden_backbone().text_tower, golden_backbone().tokenizer, path, memory=memory)
    return text.prompts(NAMES, context_length=length, contexts=OWNERS[sharing], position=position)


def kept_features(features: Tensor, picks: Tensor) -> Tensor:
    """Zeros where nothing was picked."""
    return features * (picks >= 0)[..., None]


def picked(encode: PromptEncoder, contexts: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """Features (R, Q, D) of picks, and a gradient in the contexts."""
    leaf = contexts.clone().requires_grad_()
    return with_gradient(kept_features(encode.pick(leaf, picks), picks), leaf)


def with_gradient(features: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    if not leaf.numel():
        return features, leaf
    mix = features * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    return features.detach(), torch.autograd.grad(mix.sum(), leaf)[0]


def of_all(encode: PromptEncoder, contexts: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """The same by way of all prompts."""
    leaf = contexts.clone().requires_grad_()
    features = torch.stack([of_run[here.clamp(min=0)] for of_run, here in zip(encode(leaf), picks, strict=True)])
    return with_gradient(kept_features(features, picks), leaf)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("sharing", OWNERS)
def test_picks_are_as_among_all(
    sharing: str, position: str, length: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts, picks = draw_contexts(runs, max(OWNERS[sharing]) + 1, length), torch.tensor(PICKS[:runs])
    wanted = of_all(encoder("plain", sharing, length, position), contexts, picks)
    for trimmed in (("cpu",), ()):
        monkeypatch.setattr("cptlite.text.picking.TRIMMED_DEVICES", trimmed)
        for path in TEXT_PATHS:
            assert_agree_where_any(wanted, picked(encoder(path, sharing, length, position), contexts, picks))


def assert_agree_where_any(wanted: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> None:
    assert_agree([one for one in wanted if one.numel()], [other for other in given if other.numel()])


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_pick_may_bring_its_context(path: str, position: str) -> None:
    contexts, picks = draw_contexts(3, 8, 4), torch.tensor(PICKS)
    own = torch.stack([each[here.clamp(min=0)] for each, here in zip(contexts, picks, strict=True)])
    encode = encoder(path, "each", 4, position)
    given = kept_features(encode.pick(own, picks, each=True), picks)
    assert_agree([kept_features(encode.pick(contexts, picks), picks)], [given])


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("sharing", OWNERS)
@pytest.mark.parametrize("memory", [2e-4, ONE_CHUNK_A_PROMPT])
def test_chunks_change_nothing_and_keep_nothing(path: str, sharing: str, memory: float) -> None:
    contexts, picks = draw_contexts(3, max(OWNERS[sharing]) + 1, 4), torch.tensor(PICKS)
    whole, chunked = encoder(path, sharing, 4, "middle"), encoder(path, sharing, 4, "middle", memory)
    assert_agree(picked(whole, contexts, picks), picked(chunked, contexts, picks))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    counts = []
    for encode in (whole, chunked):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encode.pick(contexts.clone().requires_grad_(), picks)
        counts.append(sum(kept))
    assert counts[1] < counts[0] / 4


def test_equal_picks_of_other_lengths_have_one_shape_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    picker = encoder("fused", "task", 4).picker
    short, long = torch.tensor([0, 3, 4]), torch.tensor([6, 5, 2])
    assert picker.groups(short, 1) != picker.groups(long, 1)
    monkeypatch.setattr("cptlite.text.picking.TRIMMED_DEVICES", ())
    assert picker.groups(short, 1) == picker.groups(long, 1)
    assert picker.groups(torch.cat([long, long]), 2) == [
        (1, width) for _, width in picker.groups(long, 1) for _ in "ab"
    ]


def test_general10_needs_a_fifth_of_its_rows(shared_dir: Path) -> None:
    tasks = json.loads((shared_dir / "fewshot" / "general10_classes.json").read_text()).values()
    backbone = load_backbone("random:demo", device="cpu")
    names, sizes = [name for names in tasks for name in names], [len(names) for names in tasks]
    owners = [task for task, size in enumerate(sizes) for _ in range(size)]
    text = TextEncoder(backbone.text_tower, backbone.tokenizer)
    encode = text.prompts(names, context_length=16, contexts=owners)
    sampler = ClassSampler(sizes, 0.1, 32, torch.device("cpu"))
    assert sampler.width == 155
    assert encode.picking_saves(155)
    generator = torch.Generator().manual_seed(0)
    classes = sampler.draw(torch.randint(sum(sizes), (32,), generator=generator), generator)
    rows = encode.picker.count_rows(10, encode.picker.groups(classes.clamp(min=0), 1))
    assert 900 < rows < 1150  # of 5,311
