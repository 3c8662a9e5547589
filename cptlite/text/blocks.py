"""How rows stand for attention: as prefixes, then as blocks in groups of one width.

Axes: C contexts, F positions of a prefix, U rows, E that are read, n blocks of a group, s cells of each, k rows that
they see, a that ask in the last layer, A of all blocks, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Blocks", "Ends", "Groups"]

Groups = Sequence[tuple[int, int]]
"""Blocks n of each group, and cells s of each of its blocks."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Rows that are read: they alone ask in the last layer, each in its block.

    Attributes
    ----------
    rows : Tensor of shape (E,), int64
    askers : Tensor of shape (A,), int64
        Which of these ask in each block, block by block, in a group as many as in the block that has most.
    places : Tensor of shape (E,), int64
        Of each row, where among the A it asks.
    masks : sequence of Tensor of shape (n, 1, a, k), bool
        Of each group, whether a row that asks sees each that its block's cells may see.
    """

    rows: Tensor
    askers: Tensor
    places: Tensor
    masks: Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How rows stand.

    Attributes
    ----------
    prefix_length : int
        F; the first C F rows are the prefixes.
    groups : sequence of (int, int)
    seen : sequence of Tensor of shape (n, k), int64
        Of each group, the rows that a block's cells may see: ancestors, then its own.
    masks : sequence of Tensor, to be broadcast to (n, H, s, k)
        Of each group, whether a cell sees each of these.
    ends : Ends
    """

    prefix_length: int
    groups: Groups
    seen: Sequence[Tensor]
    masks: Sequence[Tensor]
    ends: Ends

    @property
    def sizes(self) -> list[int]:
        """Rows of each group."""
        return [count * width for count, width in self.groups]
