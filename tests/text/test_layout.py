"""Layouts, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from letters import Letters

from cptlite.errors import UsageError
from cptlite.text.layout import PromptLayout, layout_prompts, layout_texts


def read(layout: PromptLayout) -> list[list[str | int]]:
    """Letters, ^ and $ for start and end, and the numbers of context slots."""
    prompts: list[list[str | int]] = []
    for tokens, slots, eos_position in zip(layout.tokens, layout.slots, layout.eos_positions, strict=True):
        letters = [{Letters.sos: "^", Letters.eos: "$"}.get(token, chr(token)) for token in tokens.tolist()]
        pairs = list(zip(letters, slots.tolist(), strict=True))[: eos_position + 1]
        prompts.append([letter if slot < 0 else slot for letter, slot in pairs])
    return prompts


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", ["^", 0, 1, 2, "a", "b", ".", "$"]),
        ("middle", ["^", 0, "a", "b", 1, 2, ".", "$"]),
        ("front", ["^", "a", "b", 0, 1, 2, ".", "$"]),
    ],
)
def test_positions(position: str, expected: list[str | int]) -> None:
    assert read(layout_prompts(["ab"], Letters(), context_length=3, position=position)) == [expected]


def test_contexts_offset_the_slots() -> None:
    layout = layout_prompts(["a", "b_c"], Letters(), context_length=2, contexts=[1, 0])
    assert read(layout) == [["^", 2, 3, "a", ".", "$"], ["^", 0, 1, "b", " ", "c", ".", "$"]]
    assert layout.num_slots == 4


def test_what_stands_after_the_end() -> None:
    layout = layout_prompts(["a", "bcd"], Letters(), context_length=1)
    assert layout.tokens[0, -2:].tolist() == [0, 0]
    assert layout.slots[0, -2:].tolist() == [-1, -1]
    assert layout.eos_positions.tolist() == [4, 6]


def test_texts_have_no_context() -> None:
    layout = layout_texts(["ab", "c"], Letters())
    assert read(layout) == [["^", "a", "b", "$"], ["^", "c", "$"]]
    assert layout.num_slots == 0


def test_runs_have_slots_of_their_own() -> None:
    one = layout_prompts(["a", "bc"], Letters(), context_length=2, contexts=[1, 0])
    three = one.repeat(3)
    assert len(three) == 6
    assert three.num_slots == 12
    for run in range(3):
        expected = [[item + 4 * run if isinstance(item, int) else item for item in prompt] for prompt in read(one)]
        assert read(three)[2 * run : 2 * run + 2] == expected


@pytest.mark.parametrize(("position", "prefix"), [("end", 4), ("middle", 2), ("front", 1)])
def test_a_prompt_knows_its_context_and_what_it_shares_with_others(position: str, prefix: int) -> None:
    layout = layout_prompts(["ab", "c"], Letters(), context_length=3, contexts=[1, 0], position=position)
    assert (layout.context_length, layout.prefix_length) == (3, prefix)
    assert layout.owners.tolist() == [1, 0]
    for slots, local, owner in zip(layout.slots, layout.local_slots, layout.owners, strict=True):
        assert local[local >= 0].tolist() == [0, 1, 2]
        assert np.array_equal(np.where(local >= 0, local + 3 * owner, -1), slots)
    bare = layout_prompts(["ab", "c"], Letters(), context_length=0, position=position)
    assert (bare.context_length, bare.prefix_length, bare.owners.tolist()) == (0, 1, [0, 0])


@pytest.mark.parametrize(("parts", "sizes"), [(1, [5]), (2, [2, 3]), (3, [1, 2, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_parts_are_even_and_keep_the_order(parts: int, sizes: list[int]) -> None:
    whole = layout_prompts(list("abcde"), Letters(), context_length=1, contexts=range(5))
    split = whole.split(parts)
    assert list(map(len, split)) == sizes
    assert [prompt for part in split for prompt in read(part)] == read(whole)
    assert all(part.num_slots == 5 for part in split)


def test_too_long_name_and_unknown_position() -> None:
    with pytest.raises(UsageError, match="with 16 context tokens has 79 tokens, .* takes 77: .* or give a shorter"):
        layout_prompts(["x" * 60], Letters(), context_length=16)
    with pytest.raises(UsageError, match=r"'x+' has 12 tokens, and the text encoder takes 11: shorten the name$"):
        layout_texts(["x" * 9, "x" * 10], Letters(), max_positions=11)
    with pytest.raises(UsageError, match="unknown class-name position 'back': give one of end, middle, front"):
        layout_prompts(["x"], Letters(), context_length=16, position="back")
    with pytest.raises(ValueError, match="zip"):
        layout_prompts(["x", "y"], Letters(), context_length=2, contexts=np.array([0]))
