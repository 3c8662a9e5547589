"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Linear layers run on the unique rows of a `TextPlan`; attention runs on its blocks under an ancestor mask, and each
row's result is taken back once; the last layer runs its second half on EOS rows only. Weights are frozen, so the
backward computes no weight gradients. Exact, because attention is causal and only the EOS row is read.

Axes: P prompts, U unique rows, E of them EOS, N blocks of M cells, C contexts, L context tokens, H heads, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from cptlite.backbones import TextTower
from cptlite.backbones.linear import attend
from cptlite.text.layers import freeze_layers, mlp, norm
from cptlite.text.layout import PromptLayout
from cptlite.text.plan import TextPlan, plan_rows

__all__ = ["prepare_fused"]


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; its index work is done here, once.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout).to(tower.device)
    layers = freeze_layers(tower)
    context_rows = torch.nonzero(plan.slots >= 0).flatten()
    context_slots = plan.slots[context_rows]
    words = tower.token_embedding[plan.tokens].to(tower.dtype)
    words[context_rows] = 0
    constant = words + tower.positional_embedding[plan.positions].to(tower.dtype)  # (U, W)

    def encode(contexts: Tensor) -> Tensor:
        x = constant.index_add(0, context_rows, contexts.to(tower.dtype)[context_slots])  # (U, W)
        for layer in layers[:-1]:
            qkv = layer.qkv(norm(x, layer.attn_norm))  # (U, 3W)
            q, k, v = _Scatter.apply(qkv, plan).chunk(3, dim=-1)  # (N * M, W) each
            mixed = _Gather.apply(_attend(q, k, v, plan.attn_mask, layer.num_heads), plan)  # (U, W)
            x = x + layer.out(mixed)
            x = x + mlp(x, layer)
        # Of the last layer only EOS rows are read, so only they ask, from their canonical cells.
        layer, eos_cells = layers[-1], plan.canonical_cells[plan.eos_rows]
        normed = norm(x, layer.attn_norm)  # (U, W)
        k, v = _Scatter.apply(layer.kv(normed), plan).chunk(2, dim=-1)  # (N * M, W) each
        q = torch.zeros_like(k).index_copy(0, eos_cells, layer.q(normed[plan.eos_rows]))  # (N * M, W)
        mixed = _attend(q, k, v, plan.attn_mask, layer.num_heads)[eos_cells]  # (E, W)
        x = x[plan.eos_rows] + layer.out(mixed)
        x = x + mlp(x, layer)
        return (tower.final_norm(x) @ tower.projection).float()[plan.eos_of_prompt]  # (P, D)

    return encode


def _attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, num_heads: int) -> Tensor:
    """Attention within each block, (N * M, W) of each to (N * M, W)."""
    q, k, v = (
        part.unflatten(0, attn_mask.shape[:2]).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (N, H, M, W / H)
        for part in (q, k, v)
    )
    mixed = attend(q, k, v, attn_mask[:, None])
    return mixed.transpose(1, 2).flatten(0, 1).flatten(1)  # (N * M, W)


class _Scatter(torch.autograd.Function):
    """Rows (U, ...) to the cells they stand in (N * M, ...).

    A row's gradient is that of its canonical cell, and only those of duplicates are added to it: fewer than all cells.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, plan: TextPlan) -> Tensor:
        ctx.plan = plan  # type: ignore[attr-defined]
        return x.index_select(0, plan.block_rows.flatten())  # (N * M, ...)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        plan: TextPlan = ctx.plan  # type: ignore[attr-defined]
        duplicates = plan.duplicate_cells
        rows = gradient.index_select(0, plan.canonical_cells)
        of_duplicates = gradient.index_select(0, duplicates)
        return rows.index_add_(0, plan.block_rows.flatten()[duplicates], of_duplicates), None


class _Gather(torch.autograd.Function):
    """Cells (N * M, ...) to rows (U, ...), each from its canonical cell: so gradients are written, not added."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, plan: TextPlan) -> Tensor:
        ctx.plan, ctx.num_cells = plan, len(x)  # type: ignore[attr-defined]
        return x.index_select(0, plan.canonical_cells)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        plan: TextPlan = ctx.plan  # type: ignore[attr-defined]
        cells = gradient.new_zeros(ctx.num_cells, gradient.shape[1])  # type: ignore[attr-defined]
        return cells.index_copy_(0, plan.canonical_cells, gradient), None
