"""Layouts and plans, worked by hand and against the counts of General-10's names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cptlite.errors import UsageError
from cptlite.text.layout import layout_prompts, layout_texts
from cptlite.text.plan import plan_rows

# Stanford Cars: the row counts that the derivation of the packed path gives, one shared prefix of 17 left out.
TRIE_ROWS = {"caltech101": 344, "dtd": 186, "fgvc_aircraft": 555, "stanford_cars": 1130, "ucf101": 398}


class Letters:
    """A tokenizer of one token a letter."""

    sos, eos = 1, 2

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", ["^", 0, 1, 2, "a", "b", ".", "$"]),
        ("middle", ["^", 0, "a", "b", 1, 2, ".", "$"]),
        ("front", ["^", "a", "b", 0, 1, 2, ".", "$"]),
    ],
)
def test_positions(position: str, expected: list[str | int]) -> None:
    layout = layout_prompts(["ab"], Letters(), context_length=3, position=position)
    seen: list[str | int] = []
    for token, slot in zip(layout.tokens[0], layout.slots[0], strict=True):
        seen.append(int(slot) if slot >= 0 else {1: "^", 2: "$"}.get(int(token), chr(token)))
    assert seen == expected


def test_contexts_offset_the_slots() -> None:
    layout = layout_prompts(["a", "b"], Letters(), context_length=2, contexts=[1, 0])
    assert layout.slots[:, 1:3].tolist() == [[2, 3], [0, 1]]


def test_plan_shares_prefixes_only() -> None:
    layout = layout_prompts(["ab", "ac", "ab"], Letters(), context_length=2, contexts=[0, 0, 1])
    plan = plan_rows(layout)
    # SOS is shared by all; context 0: 2 + a b . $ + c . $; context 1: 2 + a b . $
    assert plan.num_rows == 1 + (2 + 4 + 3) + (2 + 4)
    assert (plan.blocks.reshape(-1)[plan.homes] == np.arange(plan.num_rows)).all()
    assert (plan.tokens[plan.ends] == Letters.eos).all()


@pytest.mark.parametrize("block_rows", [1, 9, 12, 96])
def test_every_row_sees_its_ancestors_in_each_of_its_places(block_rows: int) -> None:
    layout = layout_prompts(["ab", "abc", "b", "ab"], Letters(), context_length=2, contexts=[0, 0, 0, 1])
    plan = plan_rows(layout, block_rows=block_rows)
    for prompt, end in enumerate(plan.ends):
        block, place = divmod(int(plan.homes[end]), plan.blocks.shape[1])
        seen = plan.blocks[block][plan.visible[block, place]]
        by_position = seen[np.argsort(plan.positions[seen])]
        length = layout.ends[prompt] + 1
        assert plan.tokens[by_position].tolist() == layout.tokens[prompt, :length].tolist()
        assert plan.slots[by_position].tolist() == layout.slots[prompt, :length].tolist()


def test_equal_prompts_share_everything() -> None:
    plan = plan_rows(layout_texts(["ab", "ab"], Letters()))
    assert plan.num_rows == 4
    assert plan.ends[0] == plan.ends[1]


@pytest.mark.parametrize("suite", TRIE_ROWS)
def test_row_counts_of_general10(suite: str, shared_dir: Path) -> None:
    from cptlite.backbones.clip import Tokenizer

    names = json.loads((shared_dir / "fewshot" / "general10_classes.json").read_text())[suite]
    plan = plan_rows(layout_prompts(names, Tokenizer(), context_length=16))
    assert plan.num_rows == 17 + TRIE_ROWS[suite]


def test_too_long_name_and_unknown_position() -> None:
    with pytest.raises(UsageError, match="has 79 tokens, and the text encoder takes 77"):
        layout_prompts(["x" * 60], Letters(), context_length=16)
    with pytest.raises(UsageError, match="unknown class-name position"):
        layout_prompts(["x"], Letters(), context_length=16, position="back")
