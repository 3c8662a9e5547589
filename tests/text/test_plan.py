"""Plans, worked by hand and against the counts of General-10's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from letters import Letters

from cptlite.backbones import Tokenizer
from cptlite.text.layout import PromptLayout, layout_prompts, layout_texts
from cptlite.text.plan import TextPlan, count_rows, plan_rows

# Stanford Cars: the row counts that the derivation of the packed path gives, one shared prefix of 17 left out.
TRIE_ROWS = {"caltech101": 344, "dtd": 186, "fgvc_aircraft": 555, "stanford_cars": 1130, "ucf101": 398}

MIXED = {
    "names that begin alike": (["ab", "abc", "b", "ab"], [0, 0, 0, 1], "end"),
    "name first": (["ab", "abc", "b", "ab"], [0, 0, 0, 1], "front"),
    "one prompt": (["ab"], [0], "middle"),
    "a long one": (["abcdefghijklmnop", "a", "b"], [0, 0, 0], "end"),
}


def prefixes(layout: PromptLayout, prompt: int) -> list[tuple[tuple[int, int], ...]]:
    """What each position of a prompt depends on: token and slot of all up to it."""
    end = layout.eos_positions[prompt] + 1
    symbols = list(zip(layout.tokens[prompt, :end].tolist(), layout.slots[prompt, :end].tolist(), strict=True))
    return [tuple(symbols[: position + 1]) for position in range(end)]


def seen_from(plan: TextPlan, cell: int) -> tuple[tuple[int, int], ...]:
    """Token and slot of all that a cell attends to, by position."""
    block, index = divmod(cell, plan.block_rows.shape[1])
    rows = plan.block_rows[block][plan.attn_mask[block, index]]
    rows = rows[plan.positions[rows].argsort()]
    assert plan.positions[rows].tolist() == list(range(len(rows)))
    return tuple(zip(plan.tokens[rows].tolist(), plan.slots[rows].tolist(), strict=True))


def test_the_worked_example() -> None:
    layout = layout_prompts(["dog", "dog house"], Tokenizer(), context_length=2)
    plan = plan_rows(layout, block_size=9)
    assert plan.positions.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6]
    assert plan.slots.tolist() == [-1, 0, 1, -1, -1, -1, -1, -1, -1]
    assert plan.eos_rows[plan.eos_of_prompt].tolist() == [6, 8]
    assert plan.block_rows.tolist() == [[0, 1, 2, 3, 4, 6, 5, 7, 8]]
    assert plan.attn_mask[0, 5].tolist() == [True] * 6 + [False] * 3
    assert plan.attn_mask[0, 7].tolist() == [True] * 4 + [False] * 2 + [True] * 2 + [False]
    assert plan.duplicate_cells.tolist() == []
    plan = plan_rows(layout, block_size=7)
    assert plan.block_rows.tolist() == [[0, 1, 2, 3, 4, 6, 0], [0, 1, 2, 3, 5, 7, 8]]
    assert plan.canonical_cells.tolist() == [0, 1, 2, 3, 4, 11, 5, 12, 13]
    assert plan.duplicate_cells.tolist() == [6, 7, 8, 9, 10]
    assert plan.attn_mask[0, 6].tolist() == [False] * 6 + [True]


def test_plan_shares_prefixes_only() -> None:
    layout = layout_prompts(["ab", "ac", "ab"], Letters(), context_length=2, contexts=[0, 0, 1])
    # SOS is shared by all; context 0: 2 + a b . $ + c . $; context 1: 2 + a b . $
    assert count_rows(layout) == len(plan_rows(layout).tokens) == 1 + (2 + 4 + 3) + (2 + 4)


@pytest.mark.parametrize("block_size", [1, 9, 12, 96])
@pytest.mark.parametrize("case", MIXED)
def test_every_cell_sees_its_rows_ancestors_and_nothing_else(case: str, block_size: int) -> None:
    names, contexts, position = MIXED[case]
    layout = layout_prompts(names, Letters(), context_length=2, contexts=contexts, position=position)
    plan = plan_rows(layout, block_size=block_size)
    wanted = {prefix for prompt in range(len(layout)) for prefix in prefixes(layout, prompt)}
    of_row = [seen_from(plan, cell) for cell in plan.canonical_cells.tolist()]
    assert sorted(of_row) == sorted(wanted)  # each once
    rows = plan.block_rows.flatten()
    assert rows[plan.canonical_cells].tolist() == list(range(len(of_row)))
    for cell in plan.duplicate_cells.tolist():
        block, index = divmod(cell, plan.block_rows.shape[1])
        is_padding = rows[cell] == 0 and index > 0
        assert plan.attn_mask[block, index].sum() == 1 if is_padding else seen_from(plan, cell) == of_row[rows[cell]]
    assert sorted([*plan.canonical_cells.tolist(), *plan.duplicate_cells.tolist()]) == list(range(len(rows)))
    for prompt, row in enumerate(plan.eos_rows[plan.eos_of_prompt].tolist()):
        assert of_row[row] == prefixes(layout, prompt)[-1]


@pytest.mark.parametrize(("block_size", "sizes"), [(1, (3, 7)), (7, (3, 7)), (8, (2, 8)), (12, (2, 8)), (13, (1, 13))])
def test_blocks_are_as_large_as_asked_unless_a_prompt_is_longer(block_size: int, sizes: tuple[int, int]) -> None:
    layout = layout_prompts(["a", "b", "cde"], Letters(), context_length=1)  # rows: 5, 3 more, 5 more
    assert plan_rows(layout, block_size=block_size).block_rows.shape == sizes


def test_names_that_begin_alike_share_a_block_in_any_order() -> None:
    names = [f"{letter}xyz{index}" for index in range(5) for letter in "abc"]
    plan = plan_rows(layout_texts(names, Letters()), block_size=1 + 4 + 5 * 2)
    assert plan.block_rows.shape == (3, 15)
    assert plan.block_rows.flatten()[plan.duplicate_cells].tolist() == [0, 0]  # SOS alone stands in every block


def test_equal_prompts_share_everything() -> None:
    plan = plan_rows(layout_texts(["ab", "ab"], Letters()))
    assert len(plan.tokens) == 4
    assert plan.eos_rows.tolist() == [3]
    assert plan.eos_of_prompt.tolist() == [0, 0]


@pytest.mark.parametrize("suite", TRIE_ROWS)
def test_row_counts_of_general10(suite: str, shared_dir: Path) -> None:
    names = json.loads((shared_dir / "fewshot" / "general10_classes.json").read_text())[suite]
    assert count_rows(layout_prompts(names, Tokenizer(), context_length=16)) == 17 + TRIE_ROWS[suite]
