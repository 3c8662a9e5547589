"""The frozen weights of CLIP's text transformer, as the packed paths run them.

Axes: W text width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.backbones import TextTower
from cptlite.backbones.linear import FrozenLinear

__all__ = ["Layer", "freeze_layers", "mlp", "norm"]

QUICK_GELU = 1.702
Norm = tuple[Tensor, Tensor, float]


def norm(x: Tensor, weights: Norm) -> Tensor:
    """Layer norm in float32, as CLIP's."""
    return F.layer_norm(x.float(), x.shape[-1:], *weights).to(x.dtype)


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
    activation: Callable[[Tensor], Tensor]
    down: FrozenLinear

    def pack(self) -> None:
        """Pack all weights now; see `FrozenLinear.pack`."""
        for linear in (self.q, self.kv, self.out, self.up, self.down):
            linear.pack()


def mlp(x: Tensor, layer: Layer) -> Tensor:
    """Run the second half of a layer but for the sum: rows (..., W) to (..., W)."""
    return layer.down(layer.activation(layer.up(norm(x, layer.mlp_norm))))


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
        activation=block.mlp.gelu if gelu else F.silu,
        down=FrozenLinear(down.weight / factor, down.bias, backend),
    )
