"""The packed text path: each row that can influence a result runs through CLIP's text encoder once.

Linear layers run on the unique rows of a `TextPlan`; attention runs on blocks of whole trie paths under an ancestor
mask, and each row's result is taken back once; the last layer runs its second half on EOS rows only. Weights are
frozen, so the backward computes no weight gradients. Exact, because attention is causal and only the EOS row is read.

Axes: P prompts, U unique rows, E of them EOS, N blocks of R rows, C contexts, L context tokens, H heads, W text width,
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

from cptlite.backbones.clip import ResidualAttentionBlock, TextTower
from cptlite.text.layout import PromptLayout
from cptlite.text.plan import TextPlan, plan_rows

__all__ = ["prepare_fused"]

QUICK_GELU = 1.702


@dataclass(frozen=True, kw_only=True)
class _Places:
    """A plan's index arrays on the tower's device."""

    blocks: Tensor  # (N * R,) row at each place
    homes: Tensor  # (U,) one place of each row
    copies: Tensor  # (N * R - U,) the other places, padding included
    visible: Tensor  # (N, 1, R, R)
    ends: Tensor  # (E,) rows that are some prompt's EOS, each once
    end_of_prompt: Tensor  # (P,) which of them is each prompt's


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Frozen weights of one residual attention block.

    CLIP's activation x * sigmoid(1.702 x) is silu(1.702 x) / 1.702: the factor goes into the weights around it, which
    leaves one elementwise operation where there were three.
    """

    num_heads: int
    norm_attention: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    norm_mlp: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


def prepare_fused(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor | None], Tensor]:
    """Prepare the packed path for one layout; its index work is done here, once.

    Returns
    -------
    callable
        From contexts of shape (C, L, W), or None where the layout has none, to raw features of shape (P, D), float32.
    """
    plan = plan_rows(layout)
    constant, slots, rows = _layer_zero(tower, plan)
    places = _find_places(plan, tower.device)
    layers = _layers(tower)

    def encode(contexts: Tensor | None) -> Tensor:
        x = constant  # (U, W)
        if contexts is not None:
            vectors = contexts.flatten(0, -2).to(tower.dtype)  # (C * L, W)
            x = x.index_add(0, rows, vectors[slots])
        for layer in layers[:-1]:
            x = x + _attend(layer, _norm(x, layer.norm_attention), places)
            x = x + _mlp(layer, x)
        layer = layers[-1]
        mixed = _attend_from_ends(layer, _norm(x, layer.norm_attention), places)  # (E, W)
        x = x[places.ends] + mixed
        x = x + _mlp(layer, x)
        return (tower.final_norm(x) @ tower.projection).float()[places.end_of_prompt]

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


def _find_places(plan: TextPlan, device: torch.device) -> _Places:
    blocks, homes = torch.from_numpy(plan.blocks).flatten(), torch.from_numpy(plan.homes)
    is_copy = torch.ones(len(blocks), dtype=torch.bool)
    is_copy[homes] = False
    ends, end_of_prompt = torch.from_numpy(plan.ends).unique(return_inverse=True)
    return _Places(
        blocks=blocks.to(device),
        homes=homes.to(device),
        copies=torch.nonzero(is_copy).flatten().to(device),
        visible=torch.from_numpy(plan.visible)[:, None].to(device),
        ends=ends.to(device),
        end_of_prompt=end_of_prompt.to(device),
    )


_FROZEN: WeakKeyDictionary[TextTower, list[_Layer]] = WeakKeyDictionary()


def _layers(tower: TextTower) -> list[_Layer]:
    """Make the tower's layers once, for all layouts: the scaled weights are copies."""
    if tower not in _FROZEN:
        _FROZEN[tower] = [_freeze(block) for block in tower.blocks]
    return _FROZEN[tower]


def _freeze(block: ResidualAttentionBlock) -> _Layer:
    attention, up, down = block.attn, block.mlp.c_fc, block.mlp.c_proj
    return _Layer(
        num_heads=attention.num_heads,
        norm_attention=(block.ln_1.weight, block.ln_1.bias),
        qkv=(attention.in_proj_weight, attention.in_proj_bias),
        out=(attention.out_proj.weight, attention.out_proj.bias),
        norm_mlp=(block.ln_2.weight, block.ln_2.bias),
        up=(up.weight * QUICK_GELU, up.bias * QUICK_GELU),
        down=(down.weight / QUICK_GELU, down.bias),
    )


def _norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


def _mlp(layer: _Layer, x: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(_norm(x, layer.norm_mlp), *layer.up)), *layer.down)


def _attend(layer: _Layer, normed: Tensor, at: _Places) -> Tensor:
    """Attention of every row to its ancestors, (U, W) to (U, W)."""
    qkv = _Spread.apply(F.linear(normed, *layer.qkv), at.blocks, at.homes, at.copies)  # (N * R, 3W)
    q, k, v = (_heads(part, layer, at) for part in qkv.chunk(3, dim=-1))  # (N, H, R, W / H)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=at.visible)
    mixed = mixed.transpose(1, 2).flatten(0, 1).flatten(1)  # (N * R, W)
    return F.linear(_Collect.apply(mixed, at.homes), *layer.out)


def _attend_from_ends(layer: _Layer, normed: Tensor, at: _Places) -> Tensor:
    """Attention of the EOS rows to their ancestors, (U, W) to (E, W)."""
    width = normed.shape[1]
    weight, bias = layer.qkv
    kv = F.linear(normed, weight[width:], bias[width:])  # (U, 2W)
    k, v = _Spread.apply(kv, at.blocks, at.homes, at.copies).chunk(2, dim=-1)
    # EOS rows ask from their homes: few of a block's places, but no second layout.
    q = F.linear(normed[at.ends], weight[:width], bias[:width])  # (E, W)
    asked = torch.zeros_like(k).index_copy(0, at.homes[at.ends], q)
    asked, k, v = (_heads(part, layer, at) for part in (asked, k, v))  # (N, H, R, W / H)
    mixed = F.scaled_dot_product_attention(asked, k, v, attn_mask=at.visible)
    mixed = mixed.transpose(1, 2).flatten(0, 1).flatten(1)[at.homes[at.ends]]  # (E, W)
    return F.linear(mixed, *layer.out)


def _heads(x: Tensor, layer: _Layer, at: _Places) -> Tensor:
    """(N * R, W) to (N, H, R, W / H)."""
    return x.unflatten(0, (at.visible.shape[0], -1)).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)


class _Spread(torch.autograd.Function):
    """Rows to places. Each row has one home, so its gradient is taken from there and only copies are added."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, blocks: Tensor, homes: Tensor, copies: Tensor) -> Tensor:
        ctx.save_for_backward(blocks, homes, copies)
        return x.index_select(0, blocks)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        blocks, homes, copies = ctx.saved_tensors  # type: ignore[attr-defined]
        rows = gradient.index_select(0, homes)
        return rows.index_add_(0, blocks[copies], gradient.index_select(0, copies)), None, None, None


class _Collect(torch.autograd.Function):
    """Places to rows, each from its home."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, homes: Tensor) -> Tensor:
        ctx.save_for_backward(homes)
        ctx.num_places = len(x)  # type: ignore[attr-defined]
        return x.index_select(0, homes)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (homes,) = ctx.saved_tensors  # type: ignore[attr-defined]
        places = gradient.new_zeros(ctx.num_places, gradient.shape[1])  # type: ignore[attr-defined]
        return places.index_copy_(0, homes, gradient), None
