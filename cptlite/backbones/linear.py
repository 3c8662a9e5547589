"""Frozen linear layers, and the residual blocks made of them: what multiplies fastest on this machine.

A frozen weight is packed once for each direction, and has no gradient. On a processor of AMD's, oneDNN multiplies
float32 more than twice as fast as MKL, to which PyTorch's own layers go, at the same error; bf16 is oneDNN's either
way, and packing saves a reorder. What runs them is a rule, not a race: the same in every run on a machine.

Axes: N rows, I numbers of a row going in, O coming out, S positions, B prompts or images, H heads, W width.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from cptlite.backbones.clip import CLIP, ResidualAttentionBlock, VisionTransformer
from cptlite.environment import processor_vendor
from cptlite.errors import UsageError

__all__ = ["LINEAR_BACKENDS", "FrozenLinear", "attend", "find_linear_backend", "freeze_blocks", "runnable_backends"]

LINEAR_BACKENDS = ("auto", "onednn", "torch")
MKLDNN: Any = torch.ops.mkldnn


def find_linear_backend(given: str, device: torch.device, dtype: torch.dtype) -> str:
    """Find what runs frozen linear layers.

    Parameters
    ----------
    given : str
        One of `LINEAR_BACKENDS`.
    device : torch.device
    dtype : torch.dtype
        Of the weights.

    Returns
    -------
    str
        ``onednn``, packed layers; or ``torch``, ``F.linear``. ``auto`` packs on a CPU for bf16, and for float32 where
        the processor is AMD's. It never does where products of float32 were allowed to be rounded.

    Raises
    ------
    UsageError
        Unknown, or ``onednn`` where it cannot be.
    """
    if given not in LINEAR_BACKENDS:
        raise UsageError(f"unknown linear backend {given!r}: give {', '.join(LINEAR_BACKENDS)}")
    if given == "torch":
        return given
    missing = _lacks_onednn(device, dtype)
    if given == "onednn":
        if missing:
            raise UsageError(f"linear backend 'onednn' {missing}: give auto or torch")
        return given
    wanted = dtype == torch.bfloat16 or processor_vendor() == "AuthenticAMD"
    return "onednn" if wanted and not missing else "torch"


def runnable_backends(device: torch.device, dtype: torch.dtype) -> list[str]:
    """List the linear backends that this machine has for weights of a number type."""
    return ["torch"] if _lacks_onednn(device, dtype) else ["torch", "onednn"]


def _lacks_onednn(device: torch.device, dtype: torch.dtype) -> str:
    """Why layers cannot be packed; empty where they can."""
    if device.type != "cpu":
        return "needs the CPU"
    if dtype not in (torch.float32, torch.bfloat16):
        return "needs float32 or bf16"
    if not (torch.backends.mkldnn.is_available() and hasattr(MKLDNN, "_linear_pointwise")):
        return "is not in this build of PyTorch"
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "would round float32, as torch.set_float32_matmul_precision allows"
    return ""


class FrozenLinear:
    """x W^T + b with weights that never change, from (..., I) to (..., O).

    Parameters
    ----------
    weight : Tensor of shape (O, I)
    bias : Tensor of shape (O,)
    backend : str
        ``onednn`` or ``torch``.
    """

    def __init__(self, weight: Tensor, bias: Tensor, backend: str) -> None:
        self.weight, self.bias, self.backend = weight.detach(), bias.detach(), backend

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer; differentiable in ``x``."""
        if self.backend == "torch":
            return F.linear(x, self.weight, self.bias)
        return _Packed.apply(x, self) if torch.is_grad_enabled() and x.requires_grad else _multiply(x, *self._forward)

    def pull(self, gradient: Tensor) -> Tensor:
        """Take a gradient (..., O) back to the rows going in, (..., I); of packed layers."""
        return _multiply(gradient, *self._backward)

    def pack(self) -> None:
        """Pack both directions now, which otherwise is done when one is first needed."""
        if self.backend == "onednn":
            assert self._forward and self._backward

    @cached_property
    def _forward(self) -> tuple[Tensor, Tensor]:
        return _pack(self.weight), self.bias

    @cached_property
    def _backward(self) -> tuple[Tensor, None]:
        return _pack(self.weight.T), None


class _Packed(torch.autograd.Function):
    """A packed layer, whose backward multiplies by the packed transpose."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer  # type: ignore[attr-defined]
        return _multiply(x, *layer._forward)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.pull(gradient), None  # type: ignore[attr-defined]


def _pack(weight: Tensor) -> Tensor:
    return MKLDNN._reorder_linear_weight(weight.contiguous(), None)


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return MKLDNN._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention; in bf16 a CPU's own kernel is slow, so there it is done by products.

    Parameters
    ----------
    q : Tensor of shape (..., H, A, W / H)
    k, v : Tensor of shape (..., H, K, W / H)
    mask : Tensor, optional
        Whether a query sees a key, to be broadcast to (..., H, A, K).
    is_causal : bool
        Whether each query sees the keys up to its own position.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return _Bf16Attention.apply(q, k, v, mask, is_causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)


class _Bf16Attention(torch.autograd.Function):
    """Attention by products of bf16, as oneDNN has them, whose scores are weighed in float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        scale = q.shape[-1] ** -0.5
        q, k, v = (part.contiguous() for part in (q, k, v))  # (..., H, A or K, W / H)
        scores = (q @ k.mT).float().mul_(scale)  # (..., H, A, K)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            scores.masked_fill_(~mask, -math.inf)
        weights = scores.softmax(-1).bfloat16()
        ctx.save_for_backward(q, k, v, weights)
        return weights @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_weights = gradient @ v.mT
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, torch.bfloat16)
        of_scores *= q.shape[-1] ** -0.5
        return of_scores @ k, of_scores.mT @ q, weights.mT @ gradient, None, None


class FrozenBlock(nn.Module):
    """A residual attention block of CLIP's, its modules by the same names, whose linear layers are packed.

    Parameters
    ----------
    block : ResidualAttentionBlock
    backend : str
        Of its linear layers.
    """

    def __init__(self, block: ResidualAttentionBlock, backend: str) -> None:
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2 = block.attn, block.ln_1, block.mlp, block.ln_2
        self.attn_mask = block.attn_mask
        attn, up, down = block.attn, block.mlp.c_fc, block.mlp.c_proj
        self._qkv = FrozenLinear(attn.in_proj_weight, attn.in_proj_bias, backend)
        self._out = FrozenLinear(attn.out_proj.weight, attn.out_proj.bias, backend)
        self._up = FrozenLinear(up.weight, up.bias, backend)
        self._down = FrozenLinear(down.weight, down.bias, backend)

    def forward(self, x: Tensor) -> Tensor:
        """(S, B, W) to the same."""
        q, k, v = (
            part.unflatten(-1, (self.attn.num_heads, -1)).permute(1, 2, 0, 3)  # (B, H, S, W / H)
            for part in self._qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        mixed = attend(q, k, v, is_causal=self.attn_mask is not None)
        x = x + self._out(mixed.permute(2, 0, 1, 3).flatten(2))
        return x + self._down(self.mlp.gelu(self._up(self.ln_2(x))))


def freeze_blocks(model: CLIP, backend: str) -> None:
    """Replace the residual attention blocks of both towers, unless PyTorch's own layers are to run."""
    transformers: list[Any] = [model.transformer]
    if isinstance(model.visual, VisionTransformer):
        transformers.append(model.visual.transformer)
    if backend != "torch":
        for transformer in transformers:
            transformer.resblocks = nn.Sequential(*(FrozenBlock(block, backend) for block in transformer.resblocks))
