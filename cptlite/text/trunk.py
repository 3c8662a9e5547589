"""CLIP's text transformer on packed rows: what the packed path of all prompts and that of some have in common.

Rows stand as prefixes, then as blocks in groups of one width (`cptlite.text.plan`). Linear layers run on all of them;
attention on the prefixes, and on each group as it lies in memory, whose blocks see copies of keys and values. Weights
are frozen, so the backward computes no weight gradients.

Axes: U rows, C contexts, F positions of a prefix, n blocks of a group, s cells of each, k rows that they see, E rows
that are read, H heads, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cptlite.backbones import TextTower
from cptlite.backbones.linear import attend
from cptlite.text.blocks import Blocks
from cptlite.text.layers import Layer, add_mlp, freeze_layers, norm

__all__ = ["Ask", "ask", "attend_rows", "run_first", "run_rows"]

Ask = Callable[[Tensor, Layer], tuple[Tensor, Tensor]]


def run_first(tower: TextTower, x: Tensor, blocks: Blocks, ask_first: Ask, *, stop: int) -> Tensor:
    """Run embedded rows (U, W) through the tower's layers before one that is not its first; see `run_rows`."""
    first, *others = freeze_layers(tower)[:stop]
    x = _run_layer(x, first, blocks, ask_first)
    for layer in others:
        x = _run_layer(x, layer, blocks, ask)
    return x


def run_rows(tower: TextTower, x: Tensor, blocks: Blocks, ask_first: Ask | None = None, *, start: int = 0) -> Tensor:
    """Run embedded rows through the tower, or what its first layers made of them through the others.

    Parameters
    ----------
    tower : TextTower
    x : Tensor of shape (U, W)
    blocks : Blocks
    ask_first : callable, optional
        From the rows and the first layer to its queries (U, W), and keys and values (U, 2W).
    start : int
        Layer that comes first.

    Returns
    -------
    Tensor of shape (E, D), float32
        Raw features of the rows that are read.
    """
    *layers, last = freeze_layers(tower)[start:]
    for layer in layers:
        x = _run_layer(x, layer, blocks, ask_first or ask)
        ask_first = None
    normed, ends = norm(x, last.attn_norm), blocks.ends
    mixed = _attend_ends(last.q(normed.index_select(0, ends.rows)), last.kv(normed), blocks, last.num_heads)  # (E, W)
    x = x.index_select(0, ends.rows) + last.out(mixed)
    x = add_mlp(x, last)
    return (tower.final_norm(x) @ tower.projection).float()


def _run_layer(x: Tensor, layer: Layer, blocks: Blocks, asking: Ask) -> Tensor:
    x = x + layer.out(attend_rows(*asking(x, layer), blocks, layer.num_heads))
    return add_mlp(x, layer)


def ask(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Make a layer's queries (U, W), and keys and values (U, 2W), of its rows (U, W)."""
    normed = norm(x, layer.attn_norm)
    return layer.q(normed), layer.kv(normed)


def attend_rows(q: Tensor, kv: Tensor, blocks: Blocks, num_heads: int) -> Tensor:
    """Attend, every row to what its block's mask lets it see; prefixes causally.

    Parameters
    ----------
    q : Tensor of shape (U, W)
    kv : Tensor of shape (U, 2W)
        Keys, then values.
    blocks : Blocks
    num_heads : int

    Returns
    -------
    Tensor of shape (U, W)
    """
    sizes = [len(q) - sum(blocks.sizes), *blocks.sizes]
    return _mix_groups(q.split(sizes), _Seen.apply(kv, blocks), [None, *blocks.masks], num_heads)


def _attend_ends(q: Tensor, kv: Tensor, blocks: Blocks, num_heads: int) -> Tensor:
    """Attend, of queries (E, W) of the rows that are read, to keys and values (U, 2W): (E, W)."""
    ends, (_, *seen) = blocks.ends, _Seen.apply(kv, blocks)
    askers = q.index_select(0, ends.askers).split([len(mask) * mask.shape[-2] for mask in ends.masks])
    return _mix_groups(askers, seen, ends.masks, num_heads).index_select(0, ends.places)


def _mix_groups(q: Sequence[Tensor], seen: Sequence[Tensor], masks: Sequence[Tensor | None], num_heads: int) -> Tensor:
    """Attention of each group's queries (n * a, W) to keys and values (n, k, 2W): (A, W) of all."""
    each = zip(q, seen, masks, strict=True)
    return torch.cat([_mix(own.unflatten(0, (len(kv), -1)), kv, mask, num_heads) for own, kv, mask in each])


class _Seen(torch.autograd.Function):
    """Keys and values (U, 2W) that the prefixes see, (C, F, 2W), and the blocks of each group, (n, k, 2W): copies."""

    @staticmethod
    def forward(ctx: Any, kv: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
        ctx.blocks = blocks
        ctx.set_materialize_grads(False)
        prefixes = kv[: len(kv) - sum(blocks.sizes)].unflatten(0, (-1, blocks.prefix_length))
        ctx.shape = prefixes.shape
        # A view would keep the keys and values of all rows for the backward.
        return prefixes.clone(), *(kv.index_select(0, rows.flatten()).view(*rows.shape, -1) for rows in blocks.seen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_prefixes: Tensor | None, *of_groups: Tensor) -> tuple[Tensor, None]:
        blocks: Blocks = ctx.blocks
        own = [of_group[:, -width:] for of_group, (_, width) in zip(of_groups, blocks.groups, strict=True)]
        if of_prefixes is None:  # the last layer's ask nothing
            of_prefixes = own[0].new_zeros(ctx.shape)
        kv = torch.cat([part.flatten(0, 1) for part in (of_prefixes, *own)])
        for of_group, rows, (_, width) in zip(of_groups, blocks.seen, blocks.groups, strict=True):
            kv.index_add_(0, rows[:, :-width].flatten(), of_group[:, :-width].flatten(0, 1))
        return kv, None


def _mix(q: Tensor, kv: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Attention of queries (n, a, W) to keys and values (n, b, 2W), causal where no mask is given: (n * a, W)."""
    q, k, v = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (n, H, a or b, W / H)
        for part in (q, *kv.chunk(2, dim=-1))
    )
    return attend(q, k, v, mask, is_causal=mask is None).transpose(1, 2).flatten(0, 1).flatten(1)
