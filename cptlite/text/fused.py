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
from cptlite.text.plan import plan_rows
from cptlite.text.trunk import ask, run_rows

__all__ = ["prepare_fused"]

CONTEXT = -1  # stands for the token where a context vector is


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; its index work is done here, once.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    plan, first = plan_rows(layout).to(tower.device), freeze_layers(tower)[0]
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

    def encode(contexts: Tensor) -> Tensor:
        vectors = contexts.to(tower.dtype)[slots]  # (O, W)
        x = words.index_select(0, kind_of_row).index_add_(0, changing, vectors)  # (U, W)
        return run_rows(tower, x, plan, ask_first)[plan.eos_of_prompt]  # (P, D)

    return encode
