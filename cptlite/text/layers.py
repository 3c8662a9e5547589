"""The frozen weights of CLIP's text transformer, as the packed paths run them.

Axes: W text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor

from cptlite.backbones import TextTower

__all__ = ["Layer", "freeze_layers", "mlp", "norm"]

QUICK_GELU = 1.702


def norm(x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Layer:
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


def mlp(x: Tensor, layer: Layer) -> Tensor:
    """Run the second half of a layer but for the sum: rows (..., W) to (..., W)."""
    return F.linear(F.silu(F.linear(norm(x, layer.mlp_norm), *layer.up)), *layer.down)


_FROZEN: WeakKeyDictionary[TextTower, list[Layer]] = WeakKeyDictionary()


def freeze_layers(tower: TextTower) -> list[Layer]:
    """Make the tower's layers once, for all layouts: the scaled weights are copies."""
    if tower not in _FROZEN:
        _FROZEN[tower] = [
            Layer(
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
    return _FROZEN[tower]
