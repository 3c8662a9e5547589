"""The frozen weights of CLIP's text transformer, as the packed paths run them.

Axes: U rows, W text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cptlite.backbones import TextTower
from cptlite.backbones.linear import FrozenLinear

__all__ = ["Layer", "add_mlp", "freeze_layers", "norm"]

QUICK_GELU = 1.702
CHUNK = 512  # rows: 4 MiB of them are in the processor's cache, and products are still at their full rate; measured
Norm = tuple[Tensor, Tensor, float]


def norm(x: Tensor, weights: Norm) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


@dataclass(frozen=True)
class Activation:
    """An activation, and its backward: from the gradient of what came out, and what went in."""

    apply: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


SILU = Activation(F.silu, torch.ops.aten.silu_backward)


def _gelu(kind: str) -> Activation:
    return Activation(partial(F.gelu, approximate=kind), partial(torch.ops.aten.gelu_backward, approximate=kind))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Frozen layers of one residual attention block; of norms, weight, bias and epsilon.

    OpenAI's activation x * sigmoid(1.702 x) is silu(1.702 x) / 1.702: the factor goes into the weights around it, which
    leaves one elementwise operation where there were three. Other CLIPs have GELU.
    """

    num_heads: int
    attn_norm: Norm
    q: FrozenLinear
    kv: FrozenLinear
    out: FrozenLinear
    mlp_norm: Norm
    up: FrozenLinear
    activation: Activation
    down: FrozenLinear

    def pack(self) -> None:
        """Pack all weights now; see `FrozenLinear.pack`."""
        for linear in (self.q, self.kv, self.out, self.up, self.down):
            linear.pack()


def add_mlp(x: Tensor, layer: Layer) -> Tensor:
    """Run the second half of a layer: rows (U, W) to (U, W)."""
    if layer.up.backend == "torch":
        return x + layer.down(layer.activation.apply(layer.up(norm(x, layer.mlp_norm))))
    return _ChunkedMLP.apply(x, layer)


class _ChunkedMLP(torch.autograd.Function):
    """`add_mlp` a few rows at a time, so that between two products they are still in the processor's cache.

    For the backward stay x, and of every row what goes into the activation; what comes out of it is never held for all.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        out, kept, chunk = torch.empty_like(x), [], _chunk(len(x))
        for rows, to in zip(x.split(chunk), out.split(chunk), strict=True):
            normed, mean, rstd = torch.native_layer_norm(rows.float(), rows.shape[-1:], *layer.mlp_norm)
            hidden = layer.up(normed.to(x.dtype))
            torch.add(rows, layer.down(layer.activation.apply(hidden)), out=to)
            if ctx.needs_input_grad[0]:
                kept += [hidden, mean, rstd]
        ctx.save_for_backward(x, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer: Layer = ctx.layer
        x, *kept = ctx.saved_tensors
        found, chunk = torch.empty_like(x), _chunk(len(x))
        split = (part.split(chunk) for part in (x, gradient, found))
        each = zip(*split, *(kept[i::3] for i in range(3)), strict=True)
        for rows, given, to, hidden, mean, rstd in each:
            inner = layer.activation.pull(layer.down.pull(given), hidden)
            inner = layer.up.pull(inner).float()
            of_norm = torch.ops.aten.native_layer_norm_backward(
                inner, rows.float(), rows.shape[-1:], mean, rstd, *layer.mlp_norm[:2], [True, False, False]
            )[0]
            torch.add(given, of_norm.to(x.dtype), out=to)
        return found, None


def _chunk(count: int) -> int:
    """Rows of a chunk, the same in all: about `CHUNK`, for a few rows left over would be slow."""
    return math.ceil(count / max(1, round(count / CHUNK)))


_FROZEN: WeakKeyDictionary[TextTower, list[Layer]] = WeakKeyDictionary()


def freeze_layers(tower: TextTower) -> list[Layer]:
    """Make the tower's layers once, for all layouts: the scaled weights are copies."""
    if tower not in _FROZEN:
        _FROZEN[tower] = [_freeze(block, tower.linear_backend) for block in tower.blocks]
    return _FROZEN[tower]


def _freeze(block: Any, backend: str) -> Layer:
    attn, up, down = block.attn, block.mlp.c_fc, block.mlp.c_proj
    weight, bias, width = attn.in_proj_weight, attn.in_proj_bias, attn.embed_dim
    gelu = isinstance(block.mlp.gelu, nn.GELU)
    factor = 1.0 if gelu else QUICK_GELU
    return Layer(
        num_heads=attn.num_heads,
        attn_norm=(block.ln_1.weight, block.ln_1.bias, block.ln_1.eps),
        q=FrozenLinear(weight[:width], bias[:width], backend),
        kv=FrozenLinear(weight[width:], bias[width:], backend),
        out=FrozenLinear(attn.out_proj.weight, attn.out_proj.bias, backend),
        mlp_norm=(block.ln_2.weight, block.ln_2.bias, block.ln_2.eps),
        up=FrozenLinear(up.weight * factor, up.bias * factor, backend),
        activation=_gelu(block.mlp.gelu.approximate) if gelu else SILU,
        down=FrozenLinear(down.weight / factor, down.bias, backend),
    )
