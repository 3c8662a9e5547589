"""The packing plan of a layout: which rows the text encoder has to run, and how they are packed for attention.

Attention is causal and only the EOS row is read. So rows after EOS never matter, and prompts that begin alike share
their first rows in every layer. What prompts around one context have in common by their form, SOS and the context as
far as it comes before the name, is the context's *prefix*: it is run once. What follows is a trie, its rows the nodes:
names that begin alike share rows too. "dog" and "dog house" around one context of two vectors, V0 and V1::

    prefix   0 SOS   1 V0   2 V1

    cell     0       1      2      3       4      5
    row      3 dog   4 .    5 EOS  6 house 7 .    8 EOS

    paths    dog         3  4  5
             dog house   3  6  7  8

Rows stand in the order that attention takes them: prefixes, then blocks. A block holds whole paths of one context, so
that a row finds in its prefix and its block all that it may attend to: its prefix, and the rows before it on its path.
The two paths make one block of six cells; with at most four cells they would make two, and "dog" would be run twice::

    cell            0  1  2  3  4  5
    row 5 sees      x  x  x  .  .  .    and the prefix
    row 8 sees      x  .  .  x  x  x

Blocks of one width are a *group*: one slab of memory, one call of attention. A block may be padded to the width of a
wider group, with cells that nothing reads.

Axes: P prompts, S positions, C contexts, F positions of a prefix, U rows, E of them EOS, N blocks, n of a group, s
cells of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.text.layout import PromptLayout

__all__ = ["Blocks", "Groups", "TextPlan", "count_rows", "plan_rows"]

BLOCK_SIZE = 64  # cells: more make attention dearer, fewer have more rows run twice; measured
MAX_PADDING = 0.01  # of the rows: more would leave fewer groups, and make the linear layers dearer


Groups = Sequence[tuple[int, int]]
"""Blocks n of each group, and cells s of each of its blocks."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How rows stand.

    Attributes
    ----------
    prefix_length : int
        F; the first C F rows are the prefixes.
    owners : Tensor of shape (N,), int64, optional
        The context of each block; None where each block has its own.
    groups : sequence of (int, int)
    masks : sequence of Tensor, to be broadcast to (n, H, s, F + s)
        Of each group, whether a cell sees a position of its prefix, or another cell of its block.
    """

    prefix_length: int
    owners: Tensor | None
    groups: Groups
    masks: Sequence[Tensor]

    @property
    def counts(self) -> list[int]:
        """Blocks of each group."""
        return [count for count, _ in self.groups]

    @property
    def sizes(self) -> list[int]:
        """Rows of each group."""
        return [count * width for count, width in self.groups]


@dataclass(frozen=True, kw_only=True)
class TextPlan(Blocks):
    """Rows, and the blocks they stand in; the module's docstring works an example.

    Attributes
    ----------
    tokens, slots, positions : Tensor of shape (U,), int64
        What stands at each row, as in `PromptLayout`, and its position. First come the C prefixes, F rows each, then
        the blocks, group by group.
    eos_rows : Tensor of shape (E,), int64
        Rows that are the EOS of some prompt, each once.
    eos_of_prompt : Tensor of shape (P,), int64
        Which of the EOS rows is each prompt's.
    owners : Tensor of shape (N,), int64
        As of `Blocks`, there for every block.
    masks : tuple of Tensor of shape (n, 1, s, F + s), bool
        As of `Blocks`: a cell sees all of the prefix, its row's ancestors in the block, and itself.
    """

    tokens: Tensor
    slots: Tensor
    positions: Tensor
    eos_rows: Tensor
    eos_of_prompt: Tensor
    owners: Tensor
    groups: tuple[tuple[int, int], ...]
    masks: tuple[Tensor, ...]

    def to(self, device: torch.device) -> TextPlan:
        """Return the plan with its tensors on a device."""
        moved: dict[str, Any] = {name: each.to(device) for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved, masks=tuple(mask.to(device) for mask in self.masks))


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Paths of one context that are run side by side: their nodes without the prefix, and the prompts they are of."""

    context: int
    cells: dict[int, int]  # from node to cell
    prompts: Sequence[int]


def plan_rows(layout: PromptLayout, *, block_size: int = BLOCK_SIZE) -> TextPlan:
    """Find the rows of a layout and pack them.

    Parameters
    ----------
    layout : PromptLayout
    block_size : int
        Cells of a block, at most; a longer path gets a block of its own length.

    Returns
    -------
    TextPlan
        On the CPU.
    """
    nodes, before = _trie_nodes(layout), layout.prefix_length
    paths = [row[before : end + 1].tolist() for row, end in zip(nodes, layout.eos_positions, strict=True)]
    contexts, first_prompts, context_of = np.unique(layout.owners, return_index=True, return_inverse=True)
    blocks = list(_pack_blocks(paths, context_of, block_size))
    blocks.sort(key=lambda block: -len(block.cells))  # stable
    groups = _make_groups([len(block.cells) for block in blocks])
    widths = np.repeat([width for _, width in groups], [count for count, _ in groups])  # (N,)
    starts = len(contexts) * before + np.cumsum(widths) - widths  # (N,), first row of each block

    _, first_places = np.unique(nodes, return_index=True)  # of each node, in (P, S)
    places = np.full(len(contexts) * before + int(widths.sum()), -1)  # (U,), in (P, S); -1 for padding
    places[: len(contexts) * before] = (first_prompts[:, None] * nodes.shape[1] + np.arange(before)).flatten()
    eos = np.zeros(len(layout), np.int64)  # row of each prompt's
    for block, start in zip(blocks, starts, strict=True):
        places[start : start + len(block.cells)] = first_places[list(block.cells)]
        for prompt in block.prompts:
            eos[prompt] = start + block.cells[paths[prompt][-1]]
    eos_rows, eos_of_prompt = np.unique(eos, return_inverse=True)  # (E,), (P,)
    padding = places < 0
    arrays = {
        "tokens": np.where(padding, 0, layout.tokens.reshape(-1)[places]),
        "slots": np.where(padding, -1, layout.slots.reshape(-1)[places]),
        "positions": np.where(padding, 0, places % nodes.shape[1]),
        "eos_rows": eos_rows,
        "eos_of_prompt": eos_of_prompt,
        "owners": np.array([block.context for block in blocks]),
    }
    taken = iter(blocks)
    masks = tuple(_masks([next(taken) for _ in range(count)], paths, before, width) for count, width in groups)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return TextPlan(**tensors, prefix_length=before, groups=tuple(groups), masks=masks)


def count_rows(layout: PromptLayout) -> int:
    """Count the rows that a layout cannot do without: every node once, and a prefix for each context."""
    before, owners = layout.prefix_length, layout.owners
    nodes = _trie_nodes(layout)[:, before:]
    owned = (nodes + owners[:, None] * (nodes.max() + 1))[nodes > 0]  # a name that comes first has a node for all
    return len(np.unique(owners)) * before + len(np.unique(owned))


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


def _pack_blocks(paths: Sequence[Sequence[int]], context_of: np.ndarray, block_size: int) -> Iterator[_Block]:
    """Pack the paths of each context into as few blocks as best fit finds, largest part first.

    Prompts whose names begin alike, a part, stay together, unless they are too many for a block.
    """
    order = sorted(range(len(paths)), key=lambda prompt: (context_of[prompt], paths[prompt]))
    for context, prompts in groupby(order, key=lambda prompt: int(context_of[prompt])):
        fullest: list[list[_Block]] = [[] for _ in range(block_size + 1)]  # blocks, by the number of free cells
        whole: list[_Block] = []
        for part in sorted(_parts(prompts, paths, block_size, context), key=lambda part: -len(part.cells)):
            size = len(part.cells)
            free = next((free for free in range(size, block_size + 1) if fullest[free]), None)
            if free is not None:
                host = fullest[free].pop()
                new = [node for node in part.cells if node not in host.cells]  # not all: names that begin alike meet
                cells = host.cells | {node: len(host.cells) + cell for cell, node in enumerate(new)}
                part = replace(host, cells=cells, prompts=[*host.prompts, *part.prompts])
            left = block_size - len(part.cells)
            (fullest[left] if left > 0 else whole).append(part)
        yield from whole
        for blocks in fullest:
            yield from blocks


def _parts(prompts: Iterator[int], paths: Sequence[Sequence[int]], block_size: int, context: int) -> Iterator[_Block]:
    """Take prompts of a context, in the trie's order, apart by the first node, and again where a block is too small."""
    for _, alike in groupby(prompts, key=lambda prompt: paths[prompt][0]):
        cells: dict[int, int] = {}
        held: list[int] = []
        for prompt in alike:
            if held and len(cells.keys() | paths[prompt]) > block_size:
                yield _Block(context=context, cells=cells, prompts=held)
                cells, held = {}, []
            for node in paths[prompt]:
                cells.setdefault(node, len(cells))
            held.append(prompt)
        yield _Block(context=context, cells=cells, prompts=held)


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


def _masks(blocks: Sequence[_Block], paths: Sequence[Sequence[int]], before: int, width: int) -> Tensor:
    """Which positions of its prefix and cells of its block each cell sees, (n, 1, s, F + s)."""
    masks = np.tile(np.eye(width, dtype=bool), (len(blocks), 1, 1))
    for mask, block in zip(masks, blocks, strict=True):
        for prompt in block.prompts:
            path = [block.cells[node] for node in paths[prompt]]
            mask[np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
    seen = np.concatenate([np.ones((len(blocks), width, before), bool), masks], axis=2)
    return torch.from_numpy(seen[:, None])
