"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Linear layers run on the unique rows of a `TextPlan`; for attention the rows are laid out as padded prompts, and each
row's result is taken back once; the last block runs its second half on EOS rows only. Weights are frozen, so the
backward computes no weight gradients. Exact, because attention is causal and only the EOS row is read.

Axes: P prompts, S positions, U unique rows, C contexts, L context tokens, H heads, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.backbone import ResidualAttentionBlock, TextTower
from cptlite.prompts import PromptLayout, TextPlan, plan_rows

__all__ = ["prepare_fused"]


@dataclass(frozen=True, kw_only=True)
class _Indices:
    """A plan's index arrays on the tower's device."""

    paths: Tensor  # (P, S)
    homes: Tensor  # (U,)
    ends: Tensor  # (P,) row of EOS
    visible: Tensor  # (P, 1, 1, S) what EOS attends to


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor | None], Tensor]:
    """Prepare the packed path for one layout; its index work is done here, once.

    Returns
    -------
    callable
        From contexts of shape (C, L, W), or None where the layout has none, to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout)
    device = tower.device
    constant, slots, rows = _layer_zero(tower, plan)
    paths = torch.from_numpy(plan.paths).to(device)
    ends_at = torch.from_numpy(plan.end_positions).to(device)
    indices = _Indices(
        paths=paths,
        homes=torch.from_numpy(plan.homes).to(device),
        ends=torch.from_numpy(plan.ends).to(device),
        visible=(torch.arange(paths.shape[1], device=device) <= ends_at[:, None])[:, None, None],
    )
    blocks = tower.blocks

    def encode(contexts: Tensor | None) -> Tensor:
        x = constant  # (U, W)
        if contexts is not None:
            vectors = contexts.flatten(0, -2).to(tower.dtype)  # (C * L, W)
            x = x.index_add(0, rows, vectors[slots])
        for block in blocks[:-1]:
            x = _run_block(block, x, indices)
        x = _run_last_block(blocks[-1], x, indices)  # (P, W)
        return (tower.final_norm(x) @ tower.projection).float()

    return encode


def _layer_zero(tower: TextTower, plan: TextPlan) -> tuple[Tensor, Tensor, Tensor]:
    """Rows before any context is added (U, W); context slots and the rows they go to, both (context rows,)."""
    tokens, slots, positions = (
        torch.from_numpy(array).to(tower.device) for array in (plan.tokens, plan.slots, plan.positions)
    )
    rows = torch.nonzero(slots >= 0).flatten()
    words = tower.token_embedding[tokens].to(tower.dtype)
    words[rows] = 0
    return words + tower.positional_embedding[positions].to(tower.dtype), slots[rows], rows


def _run_block(block: ResidualAttentionBlock, x: Tensor, at: _Indices) -> Tensor:
    """One residual attention block on the unique rows, (U, W) to (U, W)."""
    attention = block.attn
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)  # (U, 3W)
    q, k, v = _split_heads(qkv[at.paths], attention.num_heads)  # (P, H, S, W / H) each
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mixed = mixed.transpose(1, 2).flatten(0, 1).flatten(1)[at.homes]  # (U, W)
    x = x + attention.out_proj(mixed)
    return x + block.mlp(block.ln_2(x))


def _run_last_block(block: ResidualAttentionBlock, x: Tensor, at: _Indices) -> Tensor:
    """Run the last block, whose result is read from EOS rows only: (U, W) to (P, W)."""
    attention = block.attn
    width = x.shape[1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(x)
    q = F.linear(normed[at.ends], weight[:width], bias[:width])[:, None]  # (P, 1, W)
    kv = F.linear(normed, weight[width:], bias[width:])[at.paths]  # (P, S, 2W)
    query = q.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (P, H, 1, W / H)
    k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in kv.chunk(2, dim=-1))
    mixed = F.scaled_dot_product_attention(query, k, v, attn_mask=at.visible)  # (P, H, 1, W / H)
    x = x[at.ends] + attention.out_proj(mixed.flatten(1))
    return x + block.mlp(block.ln_2(x))


def _split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(P, S, 3W) to three of shape (P, H, S, W / H)."""
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    return q, k, v
