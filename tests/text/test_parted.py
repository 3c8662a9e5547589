"""Prompts that part at a block: packed as plain, whatever shares rows before it, for every block, run and chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden_cases import golden_backbone
from torch import Tensor

from cptlite.errors import UsageError
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.text.layout import layout_prompts
from cptlite.text.parted import PartedEncoder
from cptlite.text.plan import find_rows, plan_rows

NAMES = ("dog", "dog house", "dog house keeper", "737-200", "737-300", "dog", "a")
CONTEXTS = [0, 0, 1, 1, 0, 2, 2]
LENGTH = 3


def make(path: str, block: int = 1, runs: int = 1, memory: float = 8.0) -> PartedEncoder:
    backbone = golden_backbone()
    text = TextEncoder(backbone.text_tower, backbone.tokenizer, path, memory=memory)
    return PartedEncoder(text, NAMES, context_length=LENGTH, contexts=CONTEXTS, block=block, runs=runs)


def draw(runs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (runs, 3, LENGTH, 128), (runs, len(NAMES), LENGTH, 128)
    one, other = (0.3 * torch.randn(shape, generator=generator) for shape in shapes)
    return one.requires_grad_(), other.requires_grad_()


def outcome(encode: PartedEncoder, runs: int = 1) -> dict[str, Tensor]:
    """Features, and gradients of a random mix of them."""
    contexts, inserted = draw(runs)
    features = encode(contexts, inserted)
    mix = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((features * mix).sum(), [contexts, inserted])
    return dict(zip(("features", "contexts", "inserted"), (features.detach(), *found), strict=True))


def assert_agree(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, wanted in one.items():
        assert wanted.shape == other[name].shape
        assert float((wanted - other[name]).abs().max()) <= 1e-5 * float(wanted.abs().max()) > 0, name


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("block", [1, 2])
def test_packed_rows_part_as_whole_prompts_do(block: int, runs: int) -> None:
    plain, fused = (outcome(make(path, block, runs), runs) for path in ("plain", "fused"))
    assert plain["features"].shape == (runs, len(NAMES), 32)
    assert_agree(plain, fused)


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_chunks_and_other_numbers_of_runs_change_nothing(path: str) -> None:
    whole = outcome(make(path, runs=3), 3)
    assert_agree(whole, outcome(make(path, runs=1), 3))
    assert_agree(whole, outcome(make(path, runs=3, memory=1e-9), 3))


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_each_prompt_sees_its_own_vectors_and_its_context(path: str) -> None:
    encode, (contexts, inserted) = make(path), draw(1)
    before = encode(contexts, inserted).detach()
    for prompt in range(len(NAMES)):
        moved = inserted.detach().clone()
        moved[0, prompt, 1] += torch.randn(128)
        changed = (encode(contexts, moved).detach() - before).abs().amax(dim=-1)[0] > 1e-4
        assert changed.nonzero().flatten().tolist() == [prompt]
    moved = contexts.detach().clone()
    moved[0, 1] += torch.randn(LENGTH, 128)
    changed = (encode(moved, inserted).detach() - before).abs().amax(dim=-1)[0] > 1e-4
    assert changed.tolist() == [context == 1 for context in CONTEXTS]


def test_rows_of_a_plan_are_found_again() -> None:
    """At every position of a prompt stands a row with its token or slot, around its own context."""
    layout = layout_prompts(NAMES, golden_backbone().tokenizer, context_length=LENGTH, contexts=CONTEXTS)
    plan = plan_rows(layout)
    rows = find_rows(layout, plan)
    for prompt, end in enumerate(layout.eos_positions):
        own = rows[prompt, : end + 1]
        assert plan.tokens[own].tolist() == layout.tokens[prompt, : end + 1].tolist()
        assert plan.slots[own].tolist() == layout.slots[prompt, : end + 1].tolist()
        assert plan.positions[own].tolist() == list(range(end + 1))
    shared = set(rows[0, 1 : 1 + LENGTH].tolist()) & set(rows[2, 1 : 1 + LENGTH].tolist())
    assert not shared, "other contexts have other rows, of equal names too"
    assert rows[0, 4] == rows[1, 4], "names that begin alike around one context share theirs"


def test_a_block_that_is_not_there_is_refused() -> None:
    for block in (0, 3):
        with pytest.raises(UsageError, match=f"block must be from 1 to 2 in a text tower of 3 blocks, got {block}"):
            make("fused", block)


def test_a_tower_that_is_run_as_a_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = golden_backbone().text_tower
    monkeypatch.setattr(type(tower), "packs", False)
    text = TextEncoder(replace(tower), golden_backbone().tokenizer)
    with pytest.raises(UsageError, match="blocks can be entered one by one"):
        PartedEncoder(text, NAMES, context_length=LENGTH, contexts=CONTEXTS, block=1)
