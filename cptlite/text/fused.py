"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Linear layers run on the unique rows of a `TextPlan`; attention runs on its blocks under an ancestor mask, and each
row's result is taken back once; the last layer runs its second half on EOS rows only. Weights are frozen, so the
backward computes no weight gradients. Exact, because attention is causal and only the EOS row is read.

Axes: P prompts, U unique rows, E of them EOS, N blocks of M cells, C contexts, L context tokens, H heads, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from cptlite.backbones import TextTower
from cptlite.text.layout import PromptLayout
from cptlite.text.plan import TextPlan, plan_rows

__all__ = ["prepare_fused"]

QUICK_GELU = 1.702


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; its index work is done here, once.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout).to(tower.device)
    layers = _freeze_layers(tower)
    context_rows = torch.nonzero(plan.slots >= 0).flatten()
    context_slots = plan.slots[context_rows]
    words = tower.token_embedding[plan.tokens].to(tower.dtype)
    words[context_rows] = 0
    constant = words + tower.positional_embedding[plan.positions].to(tower.dtype)  # (U, W)

    def encode(contexts: Tensor) -> Tensor:
        x = constant.index_add(0, context_rows, contexts.to(tower.dtype)[context_slots])  # (U, W)
        for layer in layers[:-1]:
            qkv = F.linear(_norm(x, layer.attn_norm), *layer.qkv)  # (U, 3W)
            q, k, v = _Scatter.apply(qkv, plan).chunk(3, dim=-1)  # (N * M, W) each
            mixed = _Gather.apply(_attend(q, k, v, plan.attn_mask, layer.num_heads), plan)  # (U, W)
            x = x + F.linear(mixed, *layer.out)
            x = x + _mlp(x, layer)
        # Of the last layer only EOS rows are read, so only they ask, from their canonical cells.
        layer, eos_cells = layers[-1], plan.canonical_cells[plan.eos_rows]
        (qkv_weight, qkv_bias), width = layer.qkv, x.shape[1]
        normed = _norm(x, layer.attn_norm)  # (U, W)
        kv = F.linear(normed, qkv_weight[width:], qkv_bias[width:])  # (U, 2W)
        k, v = _Scatter.apply(kv, plan).chunk(2, dim=-1)  # (N * M, W) each
        eos_q = F.linear(normed[plan.eos_rows], qkv_weight[:width], qkv_bias[:width])  # (E, W)
        q = torch.zeros_like(k).index_copy(0, eos_cells, eos_q)  # (N * M, W)
        mixed = _attend(q, k, v, plan.attn_mask, layer.num_heads)[eos_cells]  # (E, W)
        x = x[plan.eos_rows] + F.linear(mixed, *layer.out)
        x = x + _mlp(x, layer)
        return (tower.final_norm(x) @ tower.projection).float()[plan.eos_of_prompt]  # (P, D)

    return encode


def _norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, num_heads: int) -> Tensor:
    """Attention within each block, (N * M, W) of each to (N * M, W)."""
    q, k, v = (
        part.unflatten(0, attn_mask.shape[:2]).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (N, H, M, W / H)
        for part in (q, k, v)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask[:, None])
    return mixed.transpose(1, 2).flatten(0, 1).flatten(1)  # (N * M, W)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Frozen weights of one residual attention block: pairs of weight and bias.

    CLIP's activation x * sigmoid(1.702 x) is silu(1.702 x) / 1.702: the factor goes into the weights around it, which
    leaves one elementwise operation where there were three.
    """

    num_heads: int
    attn_norm: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    mlp_norm: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


def _mlp(x: Tensor, layer: _Layer) -> Tensor:
    return F.linear(F.silu(F.linear(_norm(x, layer.mlp_norm), *layer.up)), *layer.down)


_FROZEN_LAYERS: WeakKeyDictionary[TextTower, list[_Layer]] = WeakKeyDictionary()


def _freeze_layers(tower: TextTower) -> list[_Layer]:
    """Make the tower's layers once, for all layouts: the scaled weights are copies."""
    if tower not in _FROZEN_LAYERS:
        _FROZEN_LAYERS[tower] = [
            _Layer(
                num_heads=block.attn.num_heads,
                attn_norm=(block.ln_1.weight, block.ln_1.bias),
                qkv=(block.attn.in_proj_weight, block.attn.in_proj_bias),
                out=(block.attn.out_proj.weight, block.attn.out_proj.bias),
                mlp_norm=(block.ln_2.weight, block.ln_2.bias),
                up=(block.mlp.c_fc.weight * QUICK_GELU, block.mlp.c_fc.bias * QUICK_GELU),
                down=(block.mlp.c_proj.weight / QUICK_GELU, block.mlp.c_proj.bias),
            )
            for block in tower.blocks
        ]
    return _FROZEN_LAYERS[tower]


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
