"""The packing plan of a layout: which rows the text encoder has to run, and how they are packed for attention.

Attention is causal and only the EOS row is read. So rows after EOS never matter, and prompts that begin alike share
their first rows in every layer. What prompts around one context have in common by their form, SOS and the context as
far as it comes before the name, is the context's *prefix*. What follows is a trie, its rows the nodes: names that begin
alike share rows too. "dog" and "dog house" around one context of two vectors, V0 and V1::

    prefix   0 SOS   1 V0   2 V1

    cell     0       1      2      3       4      5
    row      3 dog   4 .    5 EOS  6 house 7 .    8 EOS

    paths    dog         3  4  5
             dog house   3  6  7  8

Rows stand in the order that attention takes them: prefixes, then blocks, into which the nodes of each context are cut
depth first. A row may attend to the rows before it on its path: those in its block, and *ancestors*, which are its
prefix and, where a name was cut apart, rows of blocks before. With at most three cells the six make two blocks::

    cells of block 1            0  1  2      ancestors of block 2       cells   0  1  2
    row 5 sees      prefix      x  x  x      row 8 sees  prefix  3              x  x  x

Every row is run once, whatever the blocks. Blocks of one width are a *group*: one slab of memory, one call of
attention. A block may be padded to the width of a wider group, with cells that nothing reads.

Axes: P prompts, S positions, C contexts, F positions of a prefix, U rows, E of them EOS, N blocks, n of a group, s
cells of a block, k rows that they see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.text.blocks import Blocks, Ends, Groups
from cptlite.text.layout import PromptLayout

__all__ = ["TextPlan", "count_rows", "find_rows", "plan_rows"]

BLOCK_SIZE = 32  # cells: more make attention dearer, fewer make more calls of it; measured
MAX_PADDING = 0.01  # of the rows: more would leave fewer groups, and make the linear layers dearer


@dataclass(frozen=True, kw_only=True)
class TextPlan(Blocks):
    """Rows, and the blocks they stand in; the module's docstring works an example.

    Attributes
    ----------
    tokens, slots, positions : Tensor of shape (U,), int64
        What stands at each row, as in `PromptLayout`, and its position. First come the C prefixes, F rows each, then
        the blocks, group by group.
    ends : Ends
        Rows that are the EOS of some prompt, each once, in order.
    eos_of_prompt : Tensor of shape (P,), int64
        Which of these is each prompt's.
    places : Tensor of shape (U,), int64
        Where in (P, S) each row stands for the first time; -1 of padding.
    groups : tuple of (int, int)
    seen : tuple of Tensor of shape (n, k), int64
        As of `Blocks`.
    masks : tuple of Tensor of shape (n, 1, s, k), bool
        As of `Blocks`: a cell sees its row's ancestors, in the block and before it, and itself.
    """

    tokens: Tensor
    slots: Tensor
    positions: Tensor
    eos_of_prompt: Tensor
    places: Tensor

    def to(self, device: torch.device) -> TextPlan:
        """Return the plan with its tensors on a device."""
        return replace(self, **_moved(self, device), ends=replace(self.ends, **_moved(self.ends, device)))


def _moved(given: Ends | TextPlan, device: torch.device) -> dict[str, Any]:
    """Tensors of a dataclass, alone or in a tuple, on a device."""
    return {
        name: tuple(part.to(device) for part in each) if isinstance(each, tuple) else each.to(device)
        for name, each in vars(given).items()
        if isinstance(each, Tensor) or (isinstance(each, tuple) and isinstance(each[0], Tensor))
    }


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Nodes of one context that stand side by side, depth first, each with those before it on its path."""

    context: int
    nodes: Mapping[int, Sequence[int]]  # without the prefix

    @property
    def ancestors(self) -> Sequence[int]:
        """Nodes of blocks before that cells see: those before the first cell, as depth first means."""
        return next(iter(self.nodes.values()))


def plan_rows(layout: PromptLayout, *, block_size: int = BLOCK_SIZE) -> TextPlan:
    """Find the rows of a layout and pack them.

    Parameters
    ----------
    layout : PromptLayout
    block_size : int
        Cells of a block, at most.

    Returns
    -------
    TextPlan
        On the CPU.
    """
    nodes, before = _trie_nodes(layout), layout.prefix_length
    paths = [row[before : end + 1].tolist() for row, end in zip(nodes, layout.eos_positions, strict=True)]
    contexts, first_prompts, context_of = np.unique(layout.owners, return_index=True, return_inverse=True)
    blocks = list(_cut_blocks(paths, context_of, block_size))
    blocks.sort(key=lambda block: -len(block.nodes))  # stable
    groups = _make_groups([len(block.nodes) for block in blocks])
    widths = np.repeat([width for _, width in groups], [count for count, _ in groups])  # (N,)
    starts = len(contexts) * before + np.cumsum(widths) - widths  # (N,), first row of each block

    _, first_places = np.unique(nodes, return_index=True)  # of each node, in (P, S)
    places = np.full(len(contexts) * before + int(widths.sum()), -1)  # (U,), in (P, S); -1 for padding
    places[: len(contexts) * before] = (first_prompts[:, None] * nodes.shape[1] + np.arange(before)).flatten()
    rows: dict[tuple[int, int], int] = {}  # of each context's nodes
    for block, start in zip(blocks, starts.tolist(), strict=True):
        places[start : start + len(block.nodes)] = first_places[list(block.nodes)]
        rows |= {(block.context, node): start + cell for cell, node in enumerate(block.nodes)}
    eos = [rows[context, path[-1]] for context, path in zip(context_of.tolist(), paths, strict=True)]
    eos_rows, eos_of_prompt = np.unique(eos, return_inverse=True)  # (E,), (P,)
    padding = places < 0
    arrays = {
        "tokens": np.where(padding, 0, layout.tokens.reshape(-1)[places]),
        "slots": np.where(padding, -1, layout.slots.reshape(-1)[places]),
        "positions": np.where(padding, 0, places % nodes.shape[1]),
        "eos_of_prompt": eos_of_prompt,
        "places": places,
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    each, each_start = iter(blocks), iter(starts.tolist())
    seen, masks = zip(
        *(
            _look_around(list(islice(each, count)), list(islice(each_start, count)), width, before, rows)
            for count, width in groups
        ),
        strict=True,
    )
    ends = _find_ends(eos_rows, starts, groups, masks)
    return TextPlan(**tensors, prefix_length=before, groups=tuple(groups), seen=seen, masks=masks, ends=ends)


def count_rows(layout: PromptLayout) -> int:
    """Count the rows that a layout cannot do without: every node once, and a prefix for each context."""
    before, owners = layout.prefix_length, layout.owners
    nodes = _trie_nodes(layout)[:, before:]
    owned = (nodes + owners[:, None] * (nodes.max() + 1))[nodes > 0]  # a name that comes first has a node for all
    return len(np.unique(owners)) * before + len(np.unique(owned))


def find_rows(layout: PromptLayout, plan: TextPlan) -> Tensor:
    """Find the row of a layout's plan at each position of each prompt: (P, S), int64; after EOS it means nothing."""
    nodes, owners, places = _trie_nodes(layout), layout.owners[:, None], plan.places.cpu().numpy()
    keys = nodes + owners * (nodes.max() + 1)  # (P, S): a node around a context
    real = np.flatnonzero(places >= 0)
    found = keys.reshape(-1)[places[real]]  # of each row
    order = found.argsort()
    return torch.from_numpy(real[order][np.searchsorted(found[order], keys)])


def _trie_nodes(layout: PromptLayout) -> np.ndarray:
    """Find the node at each position of each prompt, (P, S); 0, which is SOS, after EOS.

    Two prompts have the same node at a position if they have the same one before it and the same thing stands there.
    """
    # One number for what stands there: tokens from 0 up, slots from -1 down.
    symbols = np.where(layout.slots >= 0, -1 - layout.slots, layout.tokens)  # (P, S)
    nodes = np.zeros_like(symbols)
    parents = np.zeros(len(layout), np.int64)  # node before the position, of each prompt
    count = 0
    for position in range(symbols.shape[1]):
        prompts = np.flatnonzero(layout.eos_positions >= position)
        pairs = np.stack([parents[prompts], symbols[prompts, position]], axis=1)
        unique, index = np.unique(pairs, axis=0, return_inverse=True)
        parents[prompts] = nodes[prompts, position] = count + index.reshape(-1)
        count += len(unique)
    return nodes


def _cut_blocks(paths: Sequence[Sequence[int]], context_of: np.ndarray, block_size: int) -> Iterator[_Block]:
    """Cut the nodes of each context, depth first, into blocks.

    A block ends where its last quarter has the fewest nodes before it, which the next block's cells all have to see.
    """
    order = sorted(range(len(paths)), key=lambda prompt: (context_of[prompt], paths[prompt]))
    for context, prompts in groupby(order, key=lambda prompt: int(context_of[prompt])):
        before: dict[int, Sequence[int]] = {}  # of each node, depth first, those before it on its path
        for path in (paths[prompt] for prompt in prompts):
            for depth, node in enumerate(path):
                before.setdefault(node, path[:depth])
        nodes, start = list(before), 0
        while start < len(nodes):
            most = start + block_size
            ends = range(max(start + 1, most - block_size // 4), most + 1) if most < len(nodes) else [len(nodes)]
            stop = min(ends, key=lambda end: (len(before[nodes[end]]) if end < len(nodes) else 0, -end))
            yield _Block(context=context, nodes={node: before[node] for node in nodes[start:stop]})
            start = stop


def _make_groups(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Make groups of blocks, widest first: blocks of a width, joined with those of the next where little is padded."""
    groups = [[len(list(same)), width] for width, same in groupby(widths)]
    spare = MAX_PADDING * sum(widths)
    while len(groups) > 1:
        costs = [count * (wider - width) for (_, wider), (count, width) in zip(groups, groups[1:], strict=False)]
        cheapest = int(np.argmin(costs))
        if costs[cheapest] > spare:
            break
        spare -= costs[cheapest]
        groups[cheapest][0] += groups.pop(cheapest + 1)[0]
    return [(count, width) for count, width in groups]


def _look_around(
    blocks: Sequence[_Block],
    starts: Sequence[int],
    width: int,
    before: int,
    rows: Mapping[tuple[int, int], int],
) -> tuple[Tensor, Tensor]:
    """Rows that each block of a group may see, (n, k), and which of them each cell does, (n, 1, s, k)."""
    own = before + max(len(block.ancestors) for block in blocks)  # the column where a block's own rows begin
    seen = np.empty((len(blocks), own + width), np.int64)
    masks = np.zeros((len(blocks), width, own + width), bool)
    masks[:, :, :before] = True
    masks[:, np.arange(width), own + np.arange(width)] = True  # padding too sees itself, and is a number
    for block, start, of_block, mask in zip(blocks, starts, seen, masks, strict=True):
        prefix = block.context * before
        of_block[:own] = prefix  # where there are fewer ancestors than elsewhere in the group
        of_block[:before] = np.arange(prefix, prefix + before)
        of_block[before : before + len(block.ancestors)] = [rows[block.context, node] for node in block.ancestors]
        of_block[own:] = np.arange(start, start + width)
        columns = {node: before + column for column, node in enumerate(block.ancestors)}
        columns |= {node: own + cell for cell, node in enumerate(block.nodes)}
        for cell, path in enumerate(block.nodes.values()):
            mask[cell, [columns[node] for node in path]] = True
    return torch.from_numpy(seen), torch.from_numpy(masks[:, None])


def _find_ends(rows: np.ndarray, starts: np.ndarray, groups: Groups, masks: Sequence[Tensor]) -> Ends:
    """Find where rows (E,), in order, ask; blocks start at ``starts`` (N,)."""
    blocks = np.searchsorted(starts, rows, side="right") - 1  # (E,)
    counts = np.bincount(blocks, minlength=len(starts))  # (N,)
    nth = np.arange(len(rows)) - (np.cumsum(counts) - counts)[blocks]  # (E,), in its block
    askers, places, of_ends = [], np.empty(len(rows), np.int64), []
    first, asked = 0, 0
    for (count, _), mask in zip(groups, masks, strict=True):
        most = max(1, int(counts[first : first + count].max()))
        here = np.flatnonzero((blocks >= first) & (blocks < first + count))
        grid = np.zeros((count, most), np.int64)  # filled up with any
        cells = np.zeros((count, most), np.int64)
        grid[blocks[here] - first, nth[here]] = here
        cells[blocks[here] - first, nth[here]] = rows[here] - starts[blocks[here]]
        places[here] = asked + (blocks[here] - first) * most + nth[here]
        askers.append(grid.reshape(-1))
        of_ends.append(mask[:, 0][torch.arange(count)[:, None], torch.from_numpy(cells)][:, None])
        first, asked = first + count, asked + count * most
    tensors = [torch.from_numpy(array) for array in (rows, np.concatenate(askers), places)]
    return Ends(rows=tensors[0], askers=tensors[1], places=tensors[2], masks=tuple(of_ends))
