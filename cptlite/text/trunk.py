"""CLIP's text transformer on packed rows: what the packed path of all prompts and that of some have in common.

Rows stand as prefixes, then as blocks in groups of one width (`cptlite.text.plan`). Linear layers run on all of them;
attention on the prefixes, and on each group as it lies in memory, whose blocks see a copy of their prefix's keys and
values. Weights are frozen, so the backward computes no weight gradients.

Axes: U rows, C contexts, F positions of a prefix, N blocks, n of a group, s cells of a block, E rows that are read, H
heads, W text width, D joint dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.backbones.linear import attend
from cptlite.text.layers import freeze_layers, mlp, norm
from cptlite.text.plan import Blocks

__all__ = ["attend_rows", "run_rows"]


def run_rows(tower: TextTower, x: Tensor, blocks: Blocks, ends: Tensor) -> Tensor:
    """Run embedded rows through the tower.

    Parameters
    ----------
    tower : TextTower
    x : Tensor of shape (U, W)
    blocks : Blocks
    ends : Tensor of shape (E,), int64
        Rows that are read.

    Returns
    -------
    Tensor of shape (E, D), float32
        Raw features.
    """
    *layers, last = freeze_layers(tower)
    for layer in layers:
        normed = norm(x, layer.attn_norm)
        x = x + layer.out(attend_rows(layer.q(normed), layer.kv(normed), blocks, layer.num_heads))
        x = x + mlp(x, layer)
    # Of the last layer only the ends are read, so only they ask.
    normed = norm(x, last.attn_norm)
    q = torch.zeros_like(normed).index_copy(0, ends, last.q(normed.index_select(0, ends)))
    mixed = attend_rows(q, last.kv(normed), blocks, last.num_heads).index_select(0, ends)  # (E, W)
    x = x.index_select(0, ends) + last.out(mixed)
    x = x + mlp(x, last)
    return (tower.final_norm(x) @ tower.projection).float()


def attend_rows(q: Tensor, kv: Tensor, blocks: Blocks, num_heads: int) -> Tensor:
    """Attend, every row to its prefix and to what its block's mask lets it see.

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
    before, in_prefixes = blocks.prefix_length, len(q) - sum(blocks.sizes)
    of_prefixes, *of_groups = q.split([in_prefixes, *blocks.sizes])
    prefixes, *groups = kv.split([in_prefixes, *blocks.sizes])
    prefixes = prefixes.unflatten(0, (-1, before))  # (C, F, 2W)
    mixed = [_mix(of_prefixes.unflatten(0, (-1, before)), prefixes, None, num_heads)]
    if blocks.owners is not None:
        prefixes = prefixes.index_select(0, blocks.owners)  # (N, F, 2W)
    each = zip(of_groups, groups, prefixes.split(blocks.counts), blocks.counts, blocks.masks, strict=True)
    for asking, own, prefix, count, mask in each:
        seen = torch.cat([prefix, own.unflatten(0, (count, -1))], dim=1)  # (n, F + s, 2W)
        mixed.append(_mix(asking.unflatten(0, (count, -1)), seen, mask, num_heads))  # (n * s, W)
    return torch.cat(mixed)


def _mix(q: Tensor, kv: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Attention of queries (n, a, W) to keys and values (n, b, 2W), causal where no mask is given: (n * a, W)."""
    q, k, v = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (n, H, a or b, W / H)
        for part in (q, *kv.chunk(2, dim=-1))
    )
    return attend(q, k, v, mask, is_causal=mask is None).transpose(1, 2).flatten(0, 1).flatten(1)
