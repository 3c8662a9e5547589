"""The packing plan of a layout: which rows are unique, and which blocks they stand in for attention.

Axes: P prompts, S positions, U unique rows, N blocks of R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cptlite.text.layout import PromptLayout

__all__ = ["TextPlan", "count_rows", "plan_rows"]

# Large enough that few rows stand in two blocks, small enough that attention over a block stays cheap; measured.
BLOCK_ROWS = 96


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """The rows of a layout that can influence a result, each once, packed into blocks for attention.

    Attention is causal and only the EOS row is read, so rows after EOS never matter, and prompts that begin alike
    share their first rows in every layer: the rows are the nodes of a trie over (token or context slot). A block holds
    whole paths of that trie, so that every row finds all it attends to in its own block; a row that several blocks
    need stands in each of them.

    Attributes
    ----------
    tokens, slots, positions : ndarray of shape (U,), int64
        What stands at each unique row, as in `PromptLayout`, and its position.
    ends : ndarray of shape (P,), int64
        Row of each prompt's EOS.
    blocks : ndarray of shape (N, R), int64
        Rows of each block, padded with row 0.
    visible : ndarray of shape (N, R, R), bool
        Whether the row at the second place attends to that at the third: its ancestors and itself. A padded place
        sees itself only.
    homes : ndarray of shape (U,), int64
        One place in the flattened blocks that holds each row.
    """

    tokens: np.ndarray
    slots: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    blocks: np.ndarray
    visible: np.ndarray
    homes: np.ndarray

    @property
    def num_rows(self) -> int:
        """Unique rows U: what the linear layers run on."""
        return len(self.tokens)


def plan_rows(layout: PromptLayout, *, block_rows: int = BLOCK_ROWS) -> TextPlan:
    """Find the unique rows of a layout and pack them.

    Parameters
    ----------
    layout : PromptLayout
    block_rows : int
        Rows of a block, R; a longer prompt gets a block of its own length.

    Returns
    -------
    TextPlan
    """
    paths, first_seen = _trie(layout)
    blocks, visible = _pack_blocks(paths, layout.ends, block_rows)
    places = np.flatnonzero(visible.diagonal(axis1=1, axis2=2).reshape(-1))
    homes = np.zeros(len(first_seen), np.int64)
    homes[blocks.reshape(-1)[places][::-1]] = places[::-1]  # the first place of each row
    return TextPlan(
        tokens=layout.tokens.reshape(-1)[first_seen],
        slots=layout.slots.reshape(-1)[first_seen],
        positions=first_seen % layout.tokens.shape[1],
        ends=paths[np.arange(len(paths)), layout.ends],
        blocks=blocks,
        visible=visible | np.eye(blocks.shape[1], dtype=bool),
        homes=homes,
    )


def count_rows(layout: PromptLayout) -> int:
    """Count the unique rows U of a layout, without packing them."""
    return len(_trie(layout)[1])


def _trie(layout: PromptLayout) -> tuple[np.ndarray, np.ndarray]:
    """Find the unique row at each position, (P, S), and a place in the flattened layout that holds each row, (U,).

    Level by level: two prompts share a row where their rows before it are shared and the same thing stands there.
    """
    prompts, length = layout.tokens.shape
    # One number for what stands there: tokens from 0 up, slots from -1 down.
    symbols = np.where(layout.slots >= 0, -1 - layout.slots, layout.tokens)
    paths = np.zeros((prompts, length), np.int64)
    parents = np.full(prompts, -1, np.int64)
    first_seen: list[np.ndarray] = []
    num_rows = 0
    for position in range(length):
        alive = np.flatnonzero(layout.ends >= position)
        keys = np.stack([parents[alive], symbols[alive, position]], axis=1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        paths[alive, position] = parents[alive] = num_rows + inverse.reshape(-1)
        first_seen.append(alive[first] * length + position)
        num_rows += len(first)
    return paths, np.concatenate(first_seen)


def _pack_blocks(paths: np.ndarray, ends: np.ndarray, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each block (N, R), and what sees what among those that are not padding (N, R, R).

    Prompts are taken in the trie's order, so that neighbours share rows; a block is closed when the next does not fit.
    """
    order = np.lexsort(paths.T[::-1])
    packed: list[dict[int, int]] = []  # row to place, by block
    sights: list[list[tuple[int, list[int]]]] = []  # (place, places seen), by block
    for prompt in order:
        path = paths[prompt, : ends[prompt] + 1].tolist()
        if not packed or len(packed[-1]) + sum(row not in packed[-1] for row in path) > block_rows:
            packed.append({})
            sights.append([])
        places = packed[-1]
        for depth, row in enumerate(path):
            if row not in places:
                places[row] = len(places)
                sights[-1].append((places[row], [places[above] for above in path[: depth + 1]]))
    width = max(map(len, packed))
    blocks = np.zeros((len(packed), width), np.int64)
    visible = np.zeros((len(packed), width, width), bool)
    for index, (places, seen) in enumerate(zip(packed, sights, strict=True)):
        blocks[index, : len(places)] = list(places)
        for place, above in seen:
            visible[index, place, above] = True
    return blocks, visible
