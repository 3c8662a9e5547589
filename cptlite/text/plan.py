"""The packing plan of a layout: which rows the text encoder has to run, and how they are packed for attention.

Attention is causal and only the EOS row is read. So rows after EOS never matter, and prompts that begin alike share
their first rows in every layer: the rows to run are the nodes of a trie. "dog" and "dog house" around one context of
two vectors, V0 and V1, have 6 + 7 = 13 rows, and 9 different ones; they are numbered position by position::

    position   0     1    2    3       4         5       6
    dog        SOS - V0 - V1 - dog -+- .       - EOS
    dog house                       +- house   - .     - EOS

    row        0     1    2    3       4         6
                                       5         7       8

    paths      dog         0  1  2  3  4  6
               dog house   0  1  2  3  5  7  8

Linear layers run on the rows as they are. Attention runs on blocks, which hold whole paths, so that a row finds in its
block all that it may attend to: the rows before it on its path. One block of nine cells takes both paths::

    cell            0  1  2  3  4  5  6  7  8
    row             0  1  2  3  4  6  5  7  8
    row 6 sees      x  x  x  x  x  x  .  .  .
    row 7 sees      x  x  x  x  .  .  x  x  .

With at most seven cells it would take two blocks, and rows 0 to 3 would stand in both. The first cell that holds a
row is its canonical one: the row's result is read from there. All other cells, padding too, are duplicates::

    block 0         0  1  2  3  4  6  (0)      padded with row 0
    block 1        (0)(1)(2)(3) 5  7  8        (duplicates)

Axes: P prompts, S positions, U unique rows, E of them EOS, N blocks of M cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cptlite.text.layout import PromptLayout

__all__ = ["TextPlan", "count_rows", "plan_rows"]

# Large enough that few rows stand in two blocks, small enough that attention over a block stays cheap; measured.
BLOCK_SIZE = 96


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """Unique rows and their blocks; the module's docstring works an example.

    Attributes
    ----------
    tokens, slots, positions : Tensor of shape (U,), int64
        What stands at each unique row, as in `PromptLayout`, and its position.
    eos_rows : Tensor of shape (E,), int64
        Rows that are the EOS of some prompt, each once.
    eos_of_prompt : Tensor of shape (P,), int64
        Which of the EOS rows is each prompt's.
    block_rows : Tensor of shape (N, M), int64
        Row in each cell; a block is padded with row 0.
    attn_mask : Tensor of shape (N, M, M), bool
        Whether the cell at the second axis attends to that at the third: its row's ancestors and itself. A padded cell
        sees itself only.
    canonical_cells : Tensor of shape (U,), int64
        The cell, of N * M, that each row's result is read from.
    duplicate_cells : Tensor of shape (N * M - U,), int64
        All other cells.
    """

    tokens: Tensor
    slots: Tensor
    positions: Tensor
    eos_rows: Tensor
    eos_of_prompt: Tensor
    block_rows: Tensor
    attn_mask: Tensor
    canonical_cells: Tensor
    duplicate_cells: Tensor

    def to(self, device: torch.device) -> TextPlan:
        """Return the plan with its tensors on a device."""
        return TextPlan(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def plan_rows(layout: PromptLayout, *, block_size: int = BLOCK_SIZE) -> TextPlan:
    """Find the unique rows of a layout and pack them.

    Parameters
    ----------
    layout : PromptLayout
    block_size : int
        Cells of a block, M, at most; a longer prompt gets a block of its own length.

    Returns
    -------
    TextPlan
        On the CPU.
    """
    paths = _trie_paths(layout)
    block_rows, attn_mask = _pack_blocks(paths, layout.eos_positions, block_size)
    # Row 0 pads both arrays. It is SOS, with which every prompt and block begins: no first place is padding.
    _, first_places = np.unique(paths, return_index=True)  # (U,)
    _, canonical_cells = np.unique(block_rows, return_index=True)  # (U,)
    eos_rows, eos_of_prompt = np.unique(
        paths[np.arange(len(paths)), layout.eos_positions], return_inverse=True
    )  # (E,), (P,)
    arrays = {
        "tokens": layout.tokens.reshape(-1)[first_places],  # (U,)
        "slots": layout.slots.reshape(-1)[first_places],  # (U,)
        "positions": first_places % paths.shape[1],
        "eos_rows": eos_rows,
        "eos_of_prompt": eos_of_prompt,
        "block_rows": block_rows,
        "attn_mask": attn_mask,
        "canonical_cells": canonical_cells,
        "duplicate_cells": np.setdiff1d(np.arange(block_rows.size), canonical_cells),
    }
    return TextPlan(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def count_rows(layout: PromptLayout) -> int:
    """Count the unique rows U of a layout, without packing them."""
    return int(_trie_paths(layout).max()) + 1


def _trie_paths(layout: PromptLayout) -> np.ndarray:
    """Find the unique row at each position of each prompt, (P, S); 0 after EOS.

    Two prompts have the same row at a position if they have the same row before it and the same thing stands there.
    """
    # One number for what stands there: tokens from 0 up, slots from -1 down.
    symbols = np.where(layout.slots >= 0, -1 - layout.slots, layout.tokens)  # (P, S)
    paths = np.zeros_like(symbols)
    parents = np.zeros(len(layout), np.int64)  # row before the position, of each prompt
    num_rows = 0
    for position in range(symbols.shape[1]):
        prompts = np.flatnonzero(layout.eos_positions >= position)
        nodes = np.stack([parents[prompts], symbols[prompts, position]], axis=1)
        unique, index = np.unique(nodes, axis=0, return_inverse=True)
        parents[prompts] = paths[prompts, position] = num_rows + index.reshape(-1)
        num_rows += len(unique)
    return paths


def _pack_blocks(paths: np.ndarray, eos_positions: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row in each cell, (N, M), and which cells each cell attends to, (N, M, M).

    Prompts are taken in the trie's order, so that neighbours share rows; a block is closed when the next does not fit.
    """
    blocks: list[dict[int, int]] = []  # from row to cell, by block
    block_paths: list[list[list[int]]] = []  # cells of each path, by block
    for prompt in np.lexsort(paths.T[::-1]):
        path = paths[prompt, : eos_positions[prompt] + 1].tolist()
        if not blocks or len(blocks[-1].keys() | path) > block_size:
            blocks.append({})
            block_paths.append([])
        cells = blocks[-1]
        block_paths[-1].append([cells.setdefault(row, len(cells)) for row in path])
    size = max(map(len, blocks))
    block_rows = np.zeros((len(blocks), size), np.int64)
    attn_mask = np.tile(np.eye(size, dtype=bool), (len(blocks), 1, 1))
    for block, cells in enumerate(blocks):
        block_rows[block, : len(cells)] = list(cells)
        for path in block_paths[block]:
            attn_mask[block][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
    return block_rows, attn_mask
