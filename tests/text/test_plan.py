"""Plans, worked by hand and against the counts of General-10's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from letters import Letters

from cptlite.backbones import Tokenizer
from cptlite.text import plan as planning
from cptlite.text.layout import PromptLayout, layout_prompts, layout_texts
from cptlite.text.plan import TextPlan, count_rows, plan_rows

# Stanford Cars: the row counts that the derivation of the packed path gives, one shared prefix of 17 left out.
TRIE_ROWS = {"caltech101": 344, "dtd": 186, "fgvc_aircraft": 555, "stanford_cars": 1130, "ucf101": 398}

MIXED = {
    "names that begin alike": (["ab", "abc", "b", "ab"], [0, 0, 0, 1], "end"),
    "name first": (["ab", "abc", "b", "ab"], [0, 0, 0, 1], "front"),
    "one prompt": (["ab"], [0], "middle"),
    "a long one": (["abcdefghijklmnop", "a", "b"], [0, 0, 0], "end"),
    "cut apart, and met again": (["abcdefg" + "h" * 9, "abcdx", "abcdy"], [0, 0, 0], "end"),
    "contexts without prompts": (["ab", "b"], [1, 3], "end"),
    "a context for each": (["ab", "abcde", "b", "abc", "cdefghi"], [0, 1, 2, 3, 4], "end"),
}
Seen = tuple[tuple[int, int], ...]


def prefixes(layout: PromptLayout, prompt: int) -> list[Seen]:
    """What each position of a prompt depends on: token and slot of all up to it."""
    end = layout.eos_positions[prompt] + 1
    symbols = list(zip(layout.tokens[prompt, :end].tolist(), layout.slots[prompt, :end].tolist(), strict=True))
    return [tuple(symbols[: position + 1]) for position in range(end)]


def seen_by_rows(plan: TextPlan) -> list[Seen | None]:
    """Token and slot of all that each row attends to, by position; None of padding."""
    before = plan.prefix_length
    contexts = (len(plan.tokens) - sum(count * width for count, width in plan.groups)) // before
    seen = [list(range(row - row % before, row + 1)) for row in range(contexts * before)]
    for (count, width), of_blocks, masks in zip(plan.groups, plan.seen, plan.masks, strict=True):
        columns = of_blocks.shape[1]
        assert len(of_blocks) == count
        assert masks.shape == (count, 1, width, columns)
        for rows, mask in zip(of_blocks.tolist(), masks[:, 0], strict=True):
            assert rows[-width:] == list(range(len(seen), len(seen) + width))
            seen += [[rows[column] for column in line.nonzero().flatten().tolist()] for line in mask]
    found: list[Seen | None] = []
    for row, others in enumerate(seen):
        assert others[-1] == row or row in others
        by_position = sorted(others, key=lambda other: int(plan.positions[other]))
        is_padding = plan.positions[row] == 0 and row >= contexts * before
        if not is_padding:
            assert [int(plan.positions[other]) for other in by_position] == list(range(len(others)))
        symbols = tuple((int(plan.tokens[other]), int(plan.slots[other])) for other in by_position)
        found.append(None if is_padding else symbols)
    return found


def asked_by_ends(plan: TextPlan) -> list[list[int]]:
    """Rows that each end sees where it asks."""
    asks = iter(plan.ends.askers.tolist())
    found: list[tuple[int, list[int]]] = []
    for of_blocks, masks in zip(plan.seen, plan.ends.masks, strict=True):
        for rows, mask in zip(of_blocks.tolist(), masks[:, 0], strict=True):
            found += [(next(asks), [rows[column] for column in line.nonzero().flatten().tolist()]) for line in mask]
    assert next(asks, None) is None
    assert [found[place][0] for place in plan.ends.places.tolist()] == list(range(len(plan.ends.rows)))
    return [found[place][1] for place in plan.ends.places.tolist()]


def test_the_worked_example() -> None:
    layout = layout_prompts(["dog", "dog house"], Tokenizer(), context_length=2)
    plan = plan_rows(layout, block_size=6)
    assert (plan.prefix_length, plan.groups) == (3, ((1, 6),))
    assert plan.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert plan.slots.tolist() == [-1, 0, 1, -1, -1, -1, -1, -1, -1]
    assert plan.ends.rows[plan.eos_of_prompt].tolist() == [5, 8]
    assert plan.seen[0].tolist() == [list(range(9))]
    assert plan.masks[0][0, 0, 2].tolist() == [True] * 3 + [True] * 3 + [False] * 3
    assert plan.masks[0][0, 0, 5].tolist() == [True] * 3 + [True, False, False] + [True] * 3
    plan = plan_rows(layout, block_size=3)
    assert plan.groups == ((2, 3),)
    assert plan.positions.tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    # The first block has no ancestor but its prefix, and fills the column up with a row that nothing of it sees.
    assert plan.seen[0].tolist() == [[0, 1, 2, 0, 3, 4, 5], [0, 1, 2, 3, 6, 7, 8]]
    assert plan.masks[0][:, 0, 2].tolist() == [[True] * 3 + [False] + [True] * 3, [True] * 7]
    assert (plan.ends.rows.tolist(), plan.ends.askers.tolist(), plan.ends.places.tolist()) == ([5, 8], [0, 1], [0, 1])


def test_plan_shares_prefixes_only() -> None:
    layout = layout_prompts(["ab", "ac", "ab"], Letters(), context_length=2, contexts=[0, 0, 1])
    # Context 0: SOS + 2, then a b . $ + c . $; context 1: SOS + 2, then a b . $
    assert count_rows(layout) == len(plan_rows(layout).tokens) == (3 + 4 + 3) + (3 + 4)


@pytest.mark.parametrize("padding", [0.0, 9.0])
@pytest.mark.parametrize("block_size", [1, 5, 9, 12, 14, 96])
@pytest.mark.parametrize("case", MIXED)
def test_every_row_sees_its_ancestors_and_nothing_else(
    case: str, block_size: int, padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MAX_PADDING", padding)
    names, contexts, position = MIXED[case]
    layout = layout_prompts(names, Letters(), context_length=2, contexts=contexts, position=position)
    plan = plan_rows(layout, block_size=block_size)
    seen = seen_by_rows(plan)
    real = [each for each in seen if each is not None]
    assert set(real) == {prefix for prompt in range(len(layout)) for prefix in prefixes(layout, prompt)}
    assert len(plan.tokens) - len(real) <= padding * sum(count * width for count, width in plan.groups)
    assert len(real) == count_rows(layout)
    for prompt, row in enumerate(plan.ends.rows[plan.eos_of_prompt].tolist()):
        assert seen[row] == prefixes(layout, prompt)[-1]
    for row, asked in zip(plan.ends.rows.tolist(), asked_by_ends(plan), strict=True):
        symbols = {(int(plan.tokens[other]), int(plan.slots[other])) for other in asked}
        assert (symbols, len(asked)) == (set(seen[row] or ()), len(seen[row] or ()))
    assert len(plan.groups) == 1 or not padding


@pytest.mark.parametrize(
    ("block_size", "groups"),
    [(1, ((11, 1),)), (3, ((3, 3), (1, 2))), (5, ((2, 4), (1, 3))), (8, ((1, 6), (1, 5))), (11, ((1, 11),))],
)
def test_blocks_are_at_most_as_large_as_asked(block_size: int, groups: tuple[tuple[int, int], ...]) -> None:
    layout = layout_prompts(["a", "b", "cde"], Letters(), context_length=1)  # 3, 3 and 5 rows behind the prefix
    assert plan_rows(layout, block_size=block_size).groups == groups


def test_blocks_end_where_few_rows_have_to_be_seen_again() -> None:
    names = [f"{letter}xyz{index}" for letter in "abc" for index in range(5)]  # 4 + 5 * 2 rows each
    plan = plan_rows(layout_texts(names, Letters()), block_size=16)
    assert (plan.groups, [rows.shape[1] for rows in plan.seen]) == (((3, 14),), [1 + 14])


def test_little_is_padded_and_that_where_it_saves_most() -> None:
    widths = [64] * 50 + [63] * 2 + [50] * 20 + [5]
    spare = planning.MAX_PADDING * sum(widths)
    assert planning._make_groups(widths) == [(52, 64), (20, 50), (1, 5)]
    assert 2 <= spare < 2 + 45
    assert planning._make_groups([7]) == [(1, 7)]


def test_equal_prompts_share_everything() -> None:
    plan = plan_rows(layout_texts(["ab", "ab"], Letters()))
    assert len(plan.tokens) == 4
    assert plan.ends.rows.tolist() == [3]
    assert plan.eos_of_prompt.tolist() == [0, 0]


@pytest.mark.parametrize("suite", TRIE_ROWS)
def test_row_counts_of_general10(suite: str, shared_dir: Path) -> None:
    names = json.loads((shared_dir / "fewshot" / "general10_classes.json").read_text())[suite]
    layout = layout_prompts(names, Tokenizer(), context_length=16)
    assert count_rows(layout) == 17 + TRIE_ROWS[suite]
    assert len(plan_rows(layout).tokens) <= 1.01 * count_rows(layout)
