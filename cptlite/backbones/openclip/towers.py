"""Towers of open_clip's models, as OpenAI's modules where they compute the same, and else as they are.

OpenAI's modules are what the fused text path packs, what oneDNN runs and where patch features are known. A text tower
has their form if its attention is causal and the row of the end token is read; activation, heads, widths and layers are
its own. Any other is run whole, with contexts put where its token embeddings come out.

Axes: B images, R pixels a side, P prompts, S positions, W text width, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.backbones.backbone import TextTower, set_precision
from cptlite.backbones.clip import Transformer, VisionTransformer

__all__ = ["OpenClipModel", "WholeTextTower"]

FEW = 4  # token ids of which one is no special one


class OpenClipModel(nn.Module):
    """A model of open_clip's with the face of ``clip.model.CLIP``.

    Parameters
    ----------
    model : nn.Module
        As of `build_model`; its parts are taken over.
    side : int
        R.
    dimension : int
        D.
    prompts : bool
        Whether it has a text tower.

    Attributes
    ----------
    visual : nn.Module
    whole_text : nn.Module or None
        The text tower, where it has not OpenAI's form.
    differences : tuple of str
        What of it has not.
    """

    text_projection: Tensor

    def __init__(self, model: Any, side: int, dimension: int, *, prompts: bool) -> None:
        super().__init__()
        self.visual: Any = _openai_vision(model.visual, side) if _is_openai_vision(model.visual) else model.visual
        self.visual.input_resolution = side
        self.logit_scale = model.logit_scale
        self.differences = tuple(_differences(model.text)) if prompts else ()
        self.whole_text = model.text if self.differences else None
        if prompts and not self.differences:
            text = model.text
            self.token_embedding, self.positional_embedding = text.token_embedding, text.positional_embedding
            self.transformer: Any = _openai_transformer(text.transformer, text.attn_mask)
            self.ln_final, self.text_projection = text.ln_final, text.text_projection
            return
        self.register_buffer("text_projection", torch.empty(0, dimension), persistent=False)
        self.register_buffer("positional_embedding", torch.empty(0, 0), persistent=False)
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(0, 0))
        self.ln_final = nn.Identity()
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential()

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) to projected features (B, D), *not* unit length."""
        return self.visual(images.to(self.text_projection.dtype))

    def lower(self, dtype: torch.dtype) -> None:
        """Set the number type of what multiplies; see `set_precision`. Norms stay float32."""
        set_precision(self, dtype)  # type: ignore[arg-type]
        native = isinstance(self.visual, VisionTransformer) or hasattr(self.visual, "attnpool")
        for module in (None if native else self.visual, self.whole_text):
            if module is None or dtype == torch.float32:
                continue
            module.to(dtype)
            for part in module.modules():
                if type(part).__name__ == "LayerNormFp32":
                    part.float()


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeTextTower(TextTower):
    """A text tower that is run as it is, prompt by prompt.

    Attributes
    ----------
    module : nn.Module
        ``open_clip.transformer.TextTransformer``.
    """

    module: Any

    @classmethod
    def of(cls, module: Any, logit_scale: float) -> WholeTextTower:
        """Tower of a module; a projection with a bias stands here without it, for its shape and number type."""
        projection, width = module.text_projection, module.token_embedding.weight.shape[1]
        if isinstance(projection, nn.Linear):
            projection = projection.weight.T  # (W, D)
        if projection is None:
            projection = torch.eye(width).to(module.token_embedding.weight)
        return cls(
            token_embedding=module.token_embedding.weight,
            positional_embedding=module.positional_embedding[: module.context_length],
            transformer=module.transformer,
            final_norm=module.ln_final,
            projection=projection,
            logit_scale=logit_scale,
            module=module,
        )

    @property
    def blocks(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The transformer's residual attention blocks, in order."""
        return tuple(self.transformer.resblocks)  # type: ignore[arg-type, union-attr]

    @property
    def packs(self) -> bool:
        """Rows of a prompt that come behind others matter here, so none can be left out."""
        return False

    @property
    def stand_in(self) -> int:
        """Token id that is masked nowhere and ends no text."""
        special = {self.module.pad_id, self.module.eos_id}
        return next(token for token in range(FEW) if token not in special)

    def encode_embedded(self, x: Tensor, tokens: Tensor, ends: Tensor) -> Tensor:
        """Run whole prompts (P, S, W), embedded but for their positions, to raw features (P, D)."""
        own = self.module.token_embedding
        self.module.token_embedding = _Given(x)
        try:
            return self.module(tokens)
        finally:
            self.module.token_embedding = own


class _Given(nn.Module):
    """Stands for a token embedding, and gives what was embedded before, contexts among it."""

    def __init__(self, embedded: Tensor) -> None:
        super().__init__()
        self.embedded = embedded

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedded


def _differences(text: Any) -> Iterator[str]:
    """Say what of a text tower is not as in OpenAI's, so that packed rows would not give its features."""
    if text.attn_mask is None:
        yield "attention both ways"
    if text.cls_emb is not None:
        yield "a class token behind the text"
    elif text.pool_type not in ("argmax", "eos"):
        yield f"pooled at {text.pool_type!r}"
    if not isinstance(text.text_projection, nn.Parameter):
        yield "another projection"
    if not _has_openai_blocks(text.transformer):
        yield "other blocks"


def _has_openai_blocks(transformer: Any) -> bool:
    return all(
        type(block).__name__ == "ResidualAttentionBlock"
        and isinstance(block.ls_1, nn.Identity)
        and isinstance(block.ls_2, nn.Identity)
        and type(block.mlp.gelu).__name__ in ("GELU", "QuickGELU")
        for block in getattr(transformer, "resblocks", [None])
    )


def _is_openai_vision(visual: Any) -> bool:
    return (
        type(visual).__name__ == "VisionTransformer"
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.final_ln_after_pool
        and not isinstance(visual.ln_pre, nn.Identity)
        and visual.proj is not None
        and len(visual.positional_embedding) == math.prod(visual.grid_size) + 1
        and _has_openai_blocks(visual.transformer)
    )


def _openai_vision(theirs: Any, side: int) -> VisionTransformer:
    with torch.device("meta"):
        ours = VisionTransformer(
            input_resolution=side,
            patch_size=theirs.patch_size[0],
            width=theirs.transformer.width,
            layers=0,
            heads=1,
            output_dim=theirs.output_dim,
        )
    ours.conv1, ours.ln_pre, ours.ln_post = theirs.conv1, theirs.ln_pre, theirs.ln_post
    ours.class_embedding, ours.positional_embedding = theirs.class_embedding, theirs.positional_embedding
    ours.transformer, ours.proj = _openai_transformer(theirs.transformer, None), theirs.proj
    return ours


def _openai_transformer(theirs: Any, mask: Tensor | None) -> Transformer:
    """OpenAI's transformer with the modules of another, which takes positions first."""
    with torch.device("meta"):
        ours = Transformer(theirs.width, len(theirs.resblocks), heads=1)
    for block, own in zip(ours.resblocks, theirs.resblocks, strict=True):
        block.attn, block.ln_1, block.mlp, block.ln_2 = own.attn, own.ln_1, own.mlp, own.ln_2
        block.attn.batch_first = False
        block.attn_mask = mask
    return ours
