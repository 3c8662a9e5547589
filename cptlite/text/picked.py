"""The packed text path of some prompts alone, other ones in each step: `prepare_picked`.

What `cptlite.text.fused` plans is for all prompts of a layout. Here a step picks Q of them. The positions that prompts
around one context have in common, the *prefix*, are run once a context, and what follows, the *suffix*, once a pick:
names that begin alike share no more. Picks stand longest first, in groups that are each as wide as their longest. So a
group's rows are one slab of memory, and shapes depend on the groups alone.

Axes: P prompts, Q picks, n of a group, C contexts, L context tokens, F positions of a prefix, S of a suffix at most, s
of a group, U rows in all (C F and the n s of each group), H heads, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.blocks import Blocks, Ends, Groups
from cptlite.text.layout import PromptLayout
from cptlite.text.trunk import run_rows

__all__ = ["PickedEncode", "prepare_picked"]

PickedEncode = Callable[[Tensor, Tensor, Tensor | None, Groups], Tensor]
"""From contexts (C, L, W), picks (Q,), the context of each (Q,), or None for its own, and groups to features (Q, D)."""


def prepare_picked(tower: TextTower, layout: PromptLayout) -> PickedEncode:
    """Prepare one layout; its index work is done here, once."""
    dtype, before = tower.dtype, layout.prefix_length
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
        each = torch.arange(len(picks), device=picks.device) if owners is None else owners
        prefixes = torch.cat([sos.expand(len(contexts), 1, -1), contexts[:, : before - 1]], dim=1)  # (C, F, W)
        prefixes = prefixes + tower.positional_embedding[:before].to(dtype)
        suffixes = [
            embed_suffixes(contexts, of_group, own, width)
            for of_group, own, (_, width) in zip(picks.split(counts), each.split(counts), groups, strict=True)
        ]
        x = torch.cat([prefixes.flatten(0, 1), *suffixes])  # (U, W)
        causal = [_see_all_before(before, width, x.device) for _, width in groups]
        firsts = _first_rows(groups, len(contexts) * before, x.device)
        seen = [
            torch.cat([_rows_from(own * before, before), _rows_from(first, width)], dim=1)  # (n, F + s)
            for own, first, (_, width) in zip(each.split(counts), firsts.split(counts), groups, strict=True)
        ]
        last = ends[picks]  # (Q,)
        columns = torch.arange(before + max(width for _, width in groups), device=x.device)
        sees = (columns <= before + last[:, None])[:, None, None].split(counts)  # (n, 1, 1, F + S)
        of_ends = [mask[..., : before + width] for mask, (_, width) in zip(sees, groups, strict=True)]
        one_each = torch.arange(len(picks), device=picks.device)
        read = Ends(rows=firsts + last, askers=one_each, places=one_each, masks=of_ends)
        return run_rows(tower, x, Blocks(prefix_length=before, groups=groups, seen=seen, masks=causal, ends=read))

    return encode


def _see_all_before(before: int, width: int, device: torch.device) -> Tensor:
    """Whether a suffix position attends to one of its path: (s, F + s)."""
    return torch.ones(width, before + width, dtype=torch.bool, device=device).tril(before)


def _first_rows(groups: Groups, first: int, device: torch.device) -> Tensor:
    """First row of each pick's suffix, of which the first stands behind all prefixes: (Q,)."""
    rows = []
    for count, width in groups:
        rows.append(torch.arange(count, device=device) * width + first)
        first += count * width
    return torch.cat(rows)


def _rows_from(firsts: Tensor, width: int) -> Tensor:
    """Rows from each first one on: (n, width)."""
    return firsts[:, None] + torch.arange(width, device=firsts.device)
