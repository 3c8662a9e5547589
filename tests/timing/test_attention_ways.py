"""Ways to attend agree on every node of a trie, whatever their rows are."""

from __future__ import annotations

import pytest
import torch
from gpu_parts import attention as part
from letters import Letters

from cptlite.text.layout import layout_prompts
from cptlite.text.plan import count_rows

NAMES = ["ab", "abcde", "b", "ab", "abc", "cdefghi", "ab"]
CONTEXTS = [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("position", ["end", "front"])
def test_ways_agree_on_every_node(position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "BLOCK_SIZES", (1, 5, 9, 24))
    layout = layout_prompts(NAMES, Letters(), context_length=2, contexts=CONTEXTS, position=position)
    paths = part._trie_paths(layout)
    size = len({node for path in paths for node in path})
    assert set().union(*paths) == set(range(size))
    if position == "end":
        assert size == count_rows(layout) - 1, "one SOS for both contexts"
    qkv = torch.randn(size, 3 * 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ways = dict(part._ways(layout, paths, 2, torch.device("cpu"), qkv.dtype))
    assert list(ways) == ["blocks 1", "blocks 5", "blocks 9", "blocks 24", "flex", "packed"]
    found = {name: part._attend(make(), qkv) for name, make in ways.items()}
    for name, result in found.items():
        assert result.shape == (size, 8)
        torch.testing.assert_close(result, found["packed"], rtol=0, atol=1e-12, msg=name)


def test_scores_and_cells_worked_by_hand() -> None:
    layout = layout_prompts(["dog", "dig"], Letters(), context_length=1)  # SOS V | d o g . EOS | i g . EOS
    paths = part._trie_paths(layout)
    ways = dict(part._ways(layout, paths, 1, torch.device("cpu"), torch.float32))
    blocks, packed = ways["blocks 24"](), ways["packed"]()
    assert (blocks.cells, blocks.scores) == (2 + 9, 2 * 2 + 9 * (2 + 9))
    assert (packed.cells, packed.scores) == (7 + 7, 2 * 7 * 7)
