"""The frozen weights of CLIP's text transformer, as the packed paths run them.

Axes: W text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.backbones.linear import FrozenLinear

__all__ = ["Layer", "freeze_layers", "mlp", "norm"]

QUICK_GELU = 1.702


def norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Frozen layers of one residual attention block; of norms, pairs of weight and bias.

    CLIP's activation x * sigmoid(1.702 x) is silu(1.702 x) / 1.702: the factor goes into the weights around it, which
    leaves one elementwise operation where there were three.
    """

    num_heads: int
    attn_norm: tuple[Tensor, Tensor]
    qkv: FrozenLinear
    q: FrozenLinear
    kv: FrozenLinear
    out: FrozenLinear
    mlp_norm: tuple[Tensor, Tensor]
    up: FrozenLinear
    down: FrozenLinear


def mlp(x: Tensor, layer: Layer) -> Tensor:
    """Run the second half of a layer but for the sum: rows (..., W) to (..., W)."""
    return layer.down(F.silu(layer.up(norm(x, layer.mlp_norm))))


_FROZEN: WeakKeyDictionary[TextTower, list[Layer]] = WeakKeyDictionary()


def freeze_layers(tower: TextTower) -> list[Layer]:
    """Make the tower's layers once, for all layouts: the scaled weights are copies."""
    if tower not in _FROZEN:
        _FROZEN[tower] = [_freeze(block, tower.linear_backend) for block in tower.blocks]
    return _FROZEN[tower]


def _freeze(block: Any, backend: str) -> Layer:
    attn, up, down = block.attn, block.mlp.c_fc, block.mlp.c_proj
    weight, bias, width = attn.in_proj_weight, attn.in_proj_bias, attn.embed_dim
    return Layer(
        num_heads=attn.num_heads,
        attn_norm=(block.ln_1.weight, block.ln_1.bias),
        qkv=FrozenLinear(weight, bias, backend),
        q=FrozenLinear(weight[:width], bias[:width], backend),
        kv=FrozenLinear(weight[width:], bias[width:], backend),
        out=FrozenLinear(attn.out_proj.weight, attn.out_proj.bias, backend),
        mlp_norm=(block.ln_2.weight, block.ln_2.bias),
        up=FrozenLinear(up.weight * QUICK_GELU, up.bias * QUICK_GELU, backend),
        down=FrozenLinear(down.weight / QUICK_GELU, down.bias, backend),
    )
