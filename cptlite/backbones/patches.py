"""Patch features of a CLIP and features before its projection, from the forward that makes the pooled one.

The features are those of PLOT's code base (Chen et al., ICLR 2023): of a vision transformer all patch tokens, normed
and projected as the class token is; of a residual network, whose patches are the positions of its last feature map, the
attention pool with every position for a query, not their mean alone.

Before the projection is what ProLIP (Fahes et al., arXiv 2410.05270) caches: the normed class token, or what the
attention pool mixes for the query of the mean.

Axes: B images, M patches, W width of the tower, D joint dimension, R pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.backbones.clip import CLIP, AttentionPool2d, VisionTransformer

__all__ = ["count_patches", "encode_before_projection", "encode_with_patches", "find_projection", "pool_everywhere"]


def count_patches(model: CLIP) -> int:
    """Patch features M that an image has."""
    visual = model.visual
    tokens = visual if isinstance(visual, VisionTransformer) else visual.attnpool
    return tokens.positional_embedding.shape[0] - 1  # one is the class token's, or the mean's


def encode_with_patches(model: CLIP, images: Tensor, kept: slice) -> tuple[Tensor, Tensor]:
    """Pooled features of all images and patch features of some, from one forward.

    Parameters
    ----------
    model : CLIP
    images : Tensor of shape (B, 3, R, R)
    kept : slice
        Images whose patch features are wanted.

    Returns
    -------
    pooled : Tensor of shape (B, D)
        Those of ``model.encode_image``, to the bit: it is what is run.
    patches : Tensor of shape (B of kept, M, D)
        Projected, *not* unit length.
    """
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        with _watched(visual.transformer) as seen:
            pooled = model.encode_image(images)
        patches = seen[0].transpose(0, 1)[kept, 1:]  # (B, M, W)
        return pooled, visual.ln_post(patches) @ visual.proj
    with _watched(visual.attnpool, inputs=True) as seen:
        pooled = model.encode_image(images)
    return pooled, pool_everywhere(visual.attnpool, seen[0][kept])[:, 1:]


def find_projection(model: CLIP) -> tuple[Tensor, Tensor | None]:
    """Projection of the image tower: matrix (W, D), and bias (D,) where there is one."""
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return visual.proj.detach(), None
    return visual.attnpool.c_proj.weight.detach().T, visual.attnpool.c_proj.bias.detach()


def encode_before_projection(model: CLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (B, D), to the bit, and what they are projected from (B, W), of images (B, 3, R, R)."""
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        with _watched(visual.ln_post) as seen:
            pooled = model.encode_image(images)
        return pooled, seen[0]
    with _watched(visual.attnpool, inputs=True) as seen:
        pooled = model.encode_image(images)
    return pooled, _mix(visual.attnpool, seen[0])[:, 0]


def pool_everywhere(pool: AttentionPool2d, feature_map: Tensor) -> Tensor:
    """Attention pool with every position as a query.

    Parameters
    ----------
    pool : AttentionPool2d
    feature_map : Tensor of shape (B, W, rows, columns)
        M is rows times columns.

    Returns
    -------
    Tensor of shape (B, 1 + M, D)
        The first is the query of the mean, which is the pooled feature.
    """
    return pool.c_proj(_mix(pool, feature_map))


def _mix(pool: AttentionPool2d, feature_map: Tensor) -> Tensor:
    """Mix by attention for every position what is then projected, (B, 1 + M, W)."""
    patches = feature_map.flatten(2).mT  # (B, M, W)
    tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)  # (B, 1 + M, W)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    queries, keys, values = (
        project(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (B, heads, 1 + M, W / heads)
        for project in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values)
    return mixed.transpose(1, 2).flatten(2)


@contextmanager
def _watched(module: nn.Module, *, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Note what a module gives, or takes, while the context lasts."""
    seen: list[Tensor] = []
    if inputs:
        handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    else:
        handle = module.register_forward_hook(lambda _, given, result: seen.append(result))
    try:
        yield seen
    finally:
        handle.remove()
