"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Exact, because attention is causal and only the EOS row is read. What is planned, once, is in `cptlite.text.plan`; what
runs, in `cptlite.text.trunk`.

Axes: P prompts, U rows, O of them context vectors, V kinds of rows, C contexts, L context tokens, W text width, D
joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.layers import Layer, freeze_layers
from cptlite.text.layout import PromptLayout
from cptlite.text.plan import TextPlan, find_rows, plan_rows
from cptlite.text.trunk import Ask, ask, run_first, run_rows

__all__ = ["prepare_fused", "prepare_fused_parted"]

CONTEXT = -1  # stands for the token where a context vector is


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; its index work is done here, once.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout).to(tower.device)
    embed, ask_first = _embedding(tower, plan)

    def encode(contexts: Tensor) -> Tensor:
        return run_rows(tower, embed(contexts), plan, ask_first)[plan.eos_of_prompt]  # (P, D)

    return encode


def prepare_fused_parted(tower: TextTower, layout: PromptLayout, block: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Prepare one layout whose prompts part at a block, before which each gets vectors of its own for its context.

    Blocks before it run shared rows, as ever. Those from it on run every prompt around a context of its own: its rows
    are copies of the shared ones, but for the context's.

    Returns
    -------
    callable
        From flattened contexts (C * L, W) and each prompt's vectors (P, L, W) to raw features (P, D), float32.
    """
    shared, own_layout = plan_rows(layout), layout.apart()
    own = plan_rows(own_layout)
    came_from = find_rows(layout, shared).flatten()[own.places.clamp(min=0)].to(tower.device)  # (U,), of the shared
    shared, own = shared.to(tower.device), own.to(tower.device)
    embed, ask_first = _embedding(tower, shared)
    changing = torch.nonzero(own.slots >= 0).flatten()  # (P * L,)
    slots = own.slots[changing]

    def encode(contexts: Tensor, inserted: Tensor) -> Tensor:
        x = run_first(tower, embed(contexts), shared, ask_first, stop=block).index_select(0, came_from)
        vectors = inserted.flatten(0, 1).to(tower.dtype).index_select(0, slots)
        x = x.index_copy(0, changing, vectors)  # (U, W)
        return run_rows(tower, x, own, start=block)[own.eos_of_prompt]  # (P, D)

    return encode


def _embedding(tower: TextTower, plan: TextPlan) -> tuple[Callable[[Tensor], Tensor], Ask]:
    """From flattened contexts (C * L, W) to embedded rows (U, W), and what asks for them in the first layer."""
    first = freeze_layers(tower)[0]
    changing = torch.nonzero(plan.slots >= 0).flatten()  # (O,)
    slots = plan.slots[changing]
    # Rows of one token and position begin alike, whatever their context; so their first queries, keys and values do.
    begun = torch.stack([torch.where(plan.slots >= 0, CONTEXT, plan.tokens), plan.positions])  # (2, U)
    (tokens, positions), kind_of_row = begun.unique(dim=1, return_inverse=True)  # (V,), (V,), (U,)
    words = tower.token_embedding[tokens.clamp(min=0)].to(tower.dtype)
    words[tokens == CONTEXT] = 0
    words = words + tower.positional_embedding[positions].to(tower.dtype)  # (V, W)
    with torch.no_grad():
        asked = ask(words, first)  # (V, W), (V, 2W)

    def ask_first(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
        q, kv = (
            of_kinds.index_select(0, kind_of_row).index_copy_(0, changing, of_changing)
            for of_kinds, of_changing in zip(asked, ask(x.index_select(0, changing), layer), strict=True)
        )
        return q, kv  # (U, W), (U, 2W)

    def embed(contexts: Tensor) -> Tensor:
        vectors = contexts.to(tower.dtype)[slots]  # (O, W)
        return words.index_select(0, kind_of_row).index_add_(0, changing, vectors)  # (U, W)

    return embed, ask_first
