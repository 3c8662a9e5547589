"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Exact, because attention is causal and only the EOS row is read. What is planned, once, is in `cptlite.text.plan`; what
runs, in `cptlite.text.trunk`.

Axes: P prompts, U rows, E of them EOS, C contexts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.layout import PromptLayout
from cptlite.text.plan import plan_rows
from cptlite.text.trunk import run_rows

__all__ = ["prepare_fused"]


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; its index work is done here, once.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout).to(tower.device)
    context_rows = torch.nonzero(plan.slots >= 0).flatten()
    context_slots = plan.slots[context_rows]
    words = tower.token_embedding[plan.tokens].to(tower.dtype)
    words[context_rows] = 0
    constant = words + tower.positional_embedding[plan.positions].to(tower.dtype)  # (U, W)

    def encode(contexts: Tensor) -> Tensor:
        x = constant.index_add(0, context_rows, contexts.to(tower.dtype)[context_slots])  # (U, W)
        return run_rows(tower, x, plan, plan.eos_rows)[plan.eos_of_prompt]  # (P, D)

    return encode
