"""A frozen CLIP: its towers, tokenizer, preprocessing facts and fingerprint.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).

Axes: B images, M patches of an image, R pixels a side, P prompts, S positions, W text width, D joint dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.backbones.absent import NoTowers
from cptlite.backbones.architectures import PIXEL_MEAN, PIXEL_STD
from cptlite.backbones.clip import CLIP, ResidualAttentionBlock
from cptlite.backbones.linear import FrozenBlock
from cptlite.backbones.names import backbone_slug
from cptlite.backbones.patches import count_patches, encode_before_projection, encode_with_patches, find_projection
from cptlite.backbones.tokenizer import Tokenizer, TokenSource
from cptlite.environment import multiplies_bf16
from cptlite.errors import UsageError

__all__ = ["PRECISIONS", "Backbone", "TextTower", "drop_text_tower", "resolve_precision", "set_precision"]

PRECISIONS = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WIDE = 512  # of a text tower, from which bf16 was measured to be faster; that of OpenAI's smallest
TEXT_PARTS = ("token_embedding", "positional_embedding", "ln_final")  # of the text tower alone, beside its blocks


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTower:
    """CLIP's frozen text encoder.

    Attributes
    ----------
    token_embedding : Tensor of shape (vocabulary, W)
    positional_embedding : Tensor of shape (context_length, W)
    transformer : nn.Module
        Causal transformer, called with (positions, prompts, W).
    final_norm : nn.Module
        Layer norm after the last block.
    projection : Tensor of shape (W, D)
    logit_scale : float
        The *log* of the factor on the cosine similarities.
    linear_backend : str
        What runs the linear layers: ``onednn`` or ``torch``.
    """

    token_embedding: Tensor
    positional_embedding: Tensor
    transformer: nn.Module
    final_norm: nn.Module
    projection: Tensor
    logit_scale: float
    linear_backend: str = "torch"

    @cached_property
    def blocks(self) -> tuple[ResidualAttentionBlock | FrozenBlock, ...]:
        """The transformer's residual attention blocks, in order."""
        resblocks = self.transformer.resblocks
        assert isinstance(resblocks, nn.Sequential)
        return tuple(resblocks)

    @property
    def width(self) -> int:
        """Text width W."""
        return self.token_embedding.shape[1]

    @property
    def context_length(self) -> int:
        """Positions a prompt may fill, 77 in every CLIP."""
        return self.positional_embedding.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Number type the tower computes in."""
        return self.projection.dtype

    @property
    def device(self) -> torch.device:
        """Where the tower lives."""
        return self.projection.device

    @property
    def packs(self) -> bool:
        """Whether packed rows give what whole prompts do: attention is causal, and the row of EOS is read."""
        return True

    @property
    def stand_in(self) -> int:
        """Token id that stands where a context vector does; no feature depends on it."""
        return 0

    def encode_embedded(self, x: Tensor, tokens: Tensor, ends: Tensor) -> Tensor:
        """Run whole prompts, embedded but for their positions.

        Parameters
        ----------
        x : Tensor of shape (P, S, W)
            S is the tower's context length.
        tokens : Tensor of shape (P, S), int64
        ends : Tensor of shape (P,), int64
            Position of EOS in each.

        Returns
        -------
        Tensor of shape (P, D)
            Raw features.
        """
        x = x + self.positional_embedding.to(self.dtype)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)  # (P, S, W)
        x = self.final_norm(x[torch.arange(len(x), device=x.device), ends])  # (P, W)
        return x @ self.projection

    @property
    def faster_in_bf16(self) -> bool:
        """Whether it would take less time in bf16: in float32 on a processor that multiplies bf16, and wide enough."""
        return self.device.type == "cpu" and self.dtype == torch.float32 and self.width >= WIDE and multiplies_bf16()


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen CLIP and the facts that identify it.

    Attributes
    ----------
    name : str
        As the user gave it: ``"ViT-B/16"``, a path, ``"random:RN50:3"``, ``"demo"``.
    weights_sha256 : str
        Hex digest of the weights as float32, by sorted key: equal for the same weights in any file format.
    precision : str
        One of `PRECISIONS`; what the towers compute in.
    linear_backend : str
        What runs the linear layers of its transformers: ``onednn`` or ``torch``.
    model : nn.Module
        ``clip.model.CLIP``, in evaluation mode, without gradients.
    """

    name: str
    weights_sha256: str
    precision: str
    linear_backend: str = "torch"
    model: CLIP = field(repr=False)

    @property
    def slug(self) -> str:
        """Folder name of this backbone's caches and runs."""
        return backbone_slug(self.name)

    @property
    def has_towers(self) -> bool:
        """Whether it can encode; False of features that were made elsewhere by what is not here."""
        return not isinstance(self.model, NoTowers)

    @property
    def embed_dim(self) -> int:
        """Joint dimension D."""
        return self.model.text_projection.shape[1]

    @property
    def resolution(self) -> int:
        """Side R of the square images the image tower takes, in pixels."""
        return self.model.visual.input_resolution

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.text_projection.device

    @property
    def lacks_text(self) -> str:
        """Why prompts cannot be encoded; empty where they can."""
        return "" if self.has_towers else "features made elsewhere without one"

    @property
    def remark(self) -> str:
        """What a user is to know of it before anything is trained; mostly nothing."""
        return ""

    @property
    def preprocess_spec(self) -> dict[str, Any]:
        """Its image preprocessing as data, for the cache's fingerprint; nothing where it is not known."""
        if not self.has_towers:
            return {}
        return {
            "resize": self.resolution,
            "interpolation": "bicubic",
            "crop": "center",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
        }

    @cached_property
    def tokenizer(self) -> TokenSource:
        """The tokenizer of the text tower."""
        return Tokenizer()

    @cached_property
    def text_tower(self) -> TextTower:
        """The frozen text encoder."""
        model = self.model
        assert hasattr(model, TEXT_PARTS[0]), "this backbone was loaded without its text tower"
        return TextTower(
            token_embedding=model.token_embedding.weight,
            positional_embedding=model.positional_embedding,
            transformer=model.transformer,
            final_norm=model.ln_final,
            projection=model.text_projection,
            logit_scale=float(model.logit_scale),
            linear_backend=self.linear_backend,
        )

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode preprocessed images.

        Parameters
        ----------
        images : Tensor of shape (B, 3, R, R)
            Normalised with `preprocess_spec`.

        Returns
        -------
        Tensor of shape (B, D), float32
            Projected features, *not* unit length.
        """
        return self.model.encode_image(images.to(self.device)).float()

    @property
    def num_patches(self) -> int:
        """Patch features M that an image has."""
        return count_patches(self.model)

    @torch.inference_mode()
    def encode_with_patches(self, images: Tensor, kept: slice) -> tuple[Tensor, Tensor]:
        """`encode_images` to the bit, and of the images ``kept`` the patch features (B of kept, M, D), float32."""
        pooled, patches = encode_with_patches(self.model, images.to(self.device), kept)
        return pooled.float(), patches.float()

    @property
    def pre_projection_dim(self) -> int:
        """Width I of the features before the projection."""
        return self.projection[0].shape[0]

    @property
    def projection(self) -> tuple[Tensor, Tensor | None]:
        """Last layer of the image tower, float32: matrix (I, D), and bias (D,) where there is one."""
        matrix, bias = find_projection(self.model)
        return matrix.float(), None if bias is None else bias.float()

    @torch.inference_mode()
    def encode_before_projection(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`encode_images` to the bit, and the features before the projection (B, I), float32."""
        pooled, before = encode_before_projection(self.model, images.to(self.device))
        return pooled.float(), before.float()


def drop_text_tower(model: CLIP) -> None:
    """Let go of a model's text tower: its memory is free again."""
    model.transformer.resblocks = nn.Sequential()
    for part in TEXT_PARTS:
        delattr(model, part)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Find the key of `PRECISIONS` that a precision stands for on a device; see `load_backbone`.

    Raises
    ------
    UsageError
        It is unknown, or not for this device.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: give auto, {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision == "fp16":
        raise UsageError("precision 'fp16' needs a GPU: give float32 or bf16 on the CPU")
    return precision


def set_precision(model: CLIP, dtype: torch.dtype) -> CLIP:
    """Matrix products in ``dtype``; norms and embeddings stay float32, which CLIP's modules cast themselves."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            module.to(dtype)
        elif isinstance(module, ResidualAttentionBlock) and module.attn_mask is not None:
            # No buffer: CLIP would copy it to the device in every forward, which a step waits for and no graph records.
            module.attn_mask = module.attn_mask.to(model.text_projection.device)
    model.text_projection.data = model.text_projection.data.to(dtype)
    if hasattr(model.visual, "proj"):
        model.visual.proj.data = model.visual.proj.data.to(dtype)
    return model
