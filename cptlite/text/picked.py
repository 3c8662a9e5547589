"""The packed text path of some prompts alone, other ones in each step: `prepare_picked`.

What `cptlite.text.fused` plans is for all prompts of a layout. Here a step picks Q of them. The positions that prompts
around one context have in common, the *prefix*, are run once a context, and what follows, the *suffix*, once a pick:
names that begin alike share no more. Picks stand longest first, in groups that are each as wide as their longest. So a
group's rows are one slab of memory, and shapes depend on the groups alone.

Axes: P prompts, Q picks, n of a group, C contexts, L context tokens, F positions of a prefix, S of a suffix at most, s
of a group, U rows in all (C F and the n s of each group), H heads, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.backbones.linear import attend
from cptlite.text.layers import freeze_layers, mlp, norm
from cptlite.text.layout import PromptLayout

__all__ = ["Groups", "PickedEncode", "prepare_picked"]

Groups = Sequence[tuple[int, int]]
"""Picks n of each group, and positions s of its suffixes."""

PickedEncode = Callable[[Tensor, Tensor, Tensor | None, Groups], Tensor]
"""From contexts (C, L, W), picks (Q,), the context of each (Q,), or None for its own, and groups to features (Q, D)."""


def prepare_picked(tower: TextTower, layout: PromptLayout) -> PickedEncode:
    """Prepare one layout; its index work is done here, once."""
    layers, dtype, before = freeze_layers(tower), tower.dtype, layout.prefix_length
    tokens, slots, ends = (
        torch.from_numpy(array).to(tower.device)
        for array in (layout.tokens[:, before:], layout.local_slots[:, before:], layout.eos_positions - before)
    )  # (P, S), (P, S), (P,)
    split_context = bool((layout.slots[:, before:] >= 0).any())
    sos = tower.token_embedding[int(layout.tokens[0, 0])].to(dtype)  # (W,)

    def embed_suffixes(contexts: Tensor, picks: Tensor, owners: Tensor, width: int) -> Tensor:
        x = tower.token_embedding[tokens[picks, :width]].to(dtype)  # (n, s, W)
        if split_context:  # a part of the context stands behind the name
            own = slots[picks, :width]  # (n, s)
            places = (owners[:, None] * contexts.shape[1] + own.clamp(min=0)).flatten()
            vectors = contexts.flatten(0, 1).index_select(0, places).view_as(x)
            x = torch.where(own[..., None] >= 0, vectors, x)
        return (x + tower.positional_embedding[before : before + width].to(dtype)).flatten(0, 1)  # (n * s, W)

    def encode(contexts: Tensor, picks: Tensor, owners: Tensor | None, groups: Groups) -> Tensor:
        contexts, counts = contexts.to(dtype), [count for count, _ in groups]
        split = list(zip(picks.split(counts), groups, strict=True))
        each = torch.arange(len(picks), device=picks.device) if owners is None else owners
        prefixes = torch.cat([sos.expand(len(contexts), 1, -1), contexts[:, : before - 1]], dim=1)  # (C, F, W)
        prefixes = prefixes + tower.positional_embedding[:before].to(dtype)
        suffixes = [
            embed_suffixes(contexts, of_group, own, width)
            for (of_group, (_, width)), own in zip(split, each.split(counts), strict=True)
        ]
        x = torch.cat([prefixes.flatten(0, 1), *suffixes])  # (U, W)
        causal = [_see_all_before(before, width, x.device) for _, width in groups]
        for layer in layers[:-1]:
            qkv = layer.qkv(norm(x, layer.attn_norm))  # (U, 3W)
            x = x + layer.out(_attend(qkv, before, owners, groups, causal, layer.num_heads))
            x = x + mlp(x, layer)
        # Of the last layer only EOS rows are read, so only they ask.
        layer = layers[-1]
        normed = norm(x, layer.attn_norm)
        kv = layer.kv(normed)  # (U, 2W)
        eos_rows, seen = _find_ends(ends, split, len(contexts) * before, before)  # (Q,), (n, 1, 1, F + s) each
        q = layer.q(normed.index_select(0, eos_rows))[:, None]  # (Q, 1, W)
        keys_values = _keys_values(kv, len(contexts) * before, before, owners, groups)
        asked = zip(q.split(counts), keys_values, seen, strict=True)
        mixed = torch.cat([_mix(q, kv, mask, layer.num_heads) for q, kv, mask in asked])  # (Q, W)
        x = x.index_select(0, eos_rows) + layer.out(mixed)
        x = x + mlp(x, layer)
        return (tower.final_norm(x) @ tower.projection).float()  # (Q, D)

    return encode


def _see_all_before(before: int, width: int, device: torch.device) -> Tensor:
    """Whether a suffix position attends to one of its path: (s, F + s)."""
    return torch.ones(width, before + width, dtype=torch.bool, device=device).tril(before)


def _find_ends(
    ends: Tensor, split: Sequence[tuple[Tensor, tuple[int, int]]], first: int, before: int
) -> tuple[Tensor, list[Tensor]]:
    """Row of each pick's EOS, (Q,), and by group which positions of its path that attends to, (n, 1, 1, F + s)."""
    rows, seen = [], []
    for picks, (count, width) in split:
        end = ends[picks]  # (n,)
        rows.append(torch.arange(count, device=picks.device) * width + first + end)
        positions = torch.arange(before + width, device=picks.device)
        seen.append((positions <= before + end[:, None])[:, None, None])
        first += count * width
    return torch.cat(rows), seen


def _attend(
    qkv: Tensor, before: int, owners: Tensor | None, groups: Groups, causal: Sequence[Tensor], num_heads: int
) -> Tensor:
    """Attention along every path, (U, 3W) to (U, W)."""
    width = qkv.shape[1] // 3
    in_prefixes = len(qkv) - sum(count * each for count, each in groups)
    q, kv = qkv.split([width, 2 * width], dim=1)
    paths = _keys_values(kv, in_prefixes, before, owners, groups)
    of_prefixes, *of_groups = q.split([in_prefixes, *(count * each for count, each in groups)])
    prefix_kv = kv[:in_prefixes].unflatten(0, (-1, before))  # (C, F, 2W)
    mixed = [_mix(of_prefixes.unflatten(0, (-1, before)), prefix_kv, None, num_heads)]  # (C * F, W)
    for part, path, mask, (count, _) in zip(of_groups, paths, causal, groups, strict=True):
        mixed.append(_mix(part.unflatten(0, (count, -1)), path, mask, num_heads))  # (n * s, W)
    return torch.cat(mixed)


def _keys_values(kv: Tensor, in_prefixes: int, before: int, owners: Tensor | None, groups: Groups) -> list[Tensor]:
    """Keys and values along the whole path of each pick: from (U, 2W) to (n, F + s, 2W) of each group."""
    prefixes, *suffixes = kv.split([in_prefixes, *(count * width for count, width in groups)])
    prefixes = prefixes.unflatten(0, (-1, before))  # (C, F, 2W)
    if owners is not None:
        prefixes = prefixes.index_select(0, owners)  # (Q, F, 2W)
    return [
        torch.cat([prefix, suffix.unflatten(0, (count, width))], dim=1)
        for prefix, suffix, (count, width) in zip(
            prefixes.split([count for count, _ in groups]), suffixes, groups, strict=True
        )
    ]


def _mix(q: Tensor, kv: Tensor, mask: Tensor | None, num_heads: int) -> Tensor:
    """Attention of queries (n, a, W) over keys and values (n, b, 2W), causal where no mask is given: (n * a, W)."""
    q, k, v = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (n, H, a or b, W / H)
        for part in (q, *kv.chunk(2, dim=-1))
    )
    mixed = attend(q, k, v, mask, is_causal=mask is None)
    return mixed.transpose(1, 2).flatten(0, 1).flatten(1)
