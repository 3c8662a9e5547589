"""A model of open_clip's as a backbone: its name in, weights read as data, towers out.

Axes: B images, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.backbones.backbone import PRECISIONS, Backbone, TextTower
from cptlite.backbones.clip import VisionTransformer
from cptlite.backbones.linear import freeze_blocks
from cptlite.backbones.names import OpenClipName
from cptlite.backbones.openclip.library import build_model, check_name, download_weights, pixel_facts, read_config
from cptlite.backbones.openclip.tokens import find_tokenizer
from cptlite.backbones.openclip.towers import OpenClipModel, WholeTextTower
from cptlite.backbones.openclip.weights import read_weights
from cptlite.backbones.tokenizer import TokenSource
from cptlite.backbones.weights import weights_sha256
from cptlite.errors import DataError, UsageError

__all__ = ["OpenClipBackbone", "load_openclip"]

CROPS = {"shortest": "center", "longest": "pad", "squash": "squash"}
NO_PROMPTS = "whose text tower is one of Hugging Face's transformers, which takes no prompts here"


@dataclass(frozen=True, kw_only=True)
class OpenClipBackbone(Backbone):
    """A frozen model of open_clip's.

    Attributes
    ----------
    config : mapping
        Of the model, as open_clip has it.
    pixels : mapping
        ``preprocess_spec``.
    """

    model: Any = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    pixels: Mapping[str, Any] = field(repr=False)
    tokens: TokenSource = field(repr=False)

    @property
    def preprocess_spec(self) -> dict[str, Any]:
        """Its image preprocessing as data, for the cache's fingerprint."""
        return dict(self.pixels)

    @property
    def tokenizer(self) -> TokenSource:  # type: ignore[override]
        """The tokenizer of the text tower; one of the hub is loaded when it is first used."""
        return self.tokens

    @property
    def lacks_text(self) -> str:
        """Why prompts cannot be encoded; empty where they can.

        Raises
        ------
        DataError
            They could, but for the tokenizer, which cannot be loaded.
        """
        if _is_hugging_face(self.config):
            return NO_PROMPTS
        _ = self.tokens.eos
        return ""

    @property
    def remark(self) -> str:
        """What a user is to know: that prompts go the slow way, or none go."""
        if _is_hugging_face(self.config):
            return f"{self.name}: for image features alone; prompts cannot be encoded"
        if not self.model.differences:
            return ""
        others = ", ".join(self.model.differences)
        return f"{self.name}: prompts go through the plain text path, since its text tower is not CLIP's ({others})"

    @cached_property
    def text_tower(self) -> TextTower:
        """The frozen text encoder."""
        if self.model.whole_text is None:
            return super().text_tower
        return WholeTextTower.of(self.model.whole_text, float(self.model.logit_scale))

    @property
    def num_patches(self) -> int:
        """Patch features M that an image has."""
        self._check_patches()
        return super().num_patches

    def encode_with_patches(self, images: Tensor, kept: slice) -> tuple[Tensor, Tensor]:
        """As of `Backbone`, of towers of OpenAI's forms."""
        self._check_patches()
        return super().encode_with_patches(images, kept)

    @property
    def projection(self) -> tuple[Tensor, Tensor | None]:
        """As of `Backbone`, of towers of OpenAI's forms."""
        self._check_form("features before a projection", "--pre-projection")
        return super().projection

    def encode_before_projection(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Backbone`, of towers of OpenAI's forms."""
        self._check_form("features before a projection", "--pre-projection")
        return super().encode_before_projection(images)

    def _check_patches(self) -> None:
        self._check_form("patch features", "--patches")

    def _check_form(self, wanted: str, flag: str) -> None:
        if not (isinstance(self.model.visual, VisionTransformer) or hasattr(self.model.visual, "attnpool")):
            raise UsageError(
                f"wanted an image tower of OpenAI's forms for {wanted}, got {type(self.model.visual).__name__} "
                f"of {self.name}: leave out {flag}, or give another backbone"
            )


def load_openclip(
    name: str, found: OpenClipName, device: torch.device, precision: str, linear_backend: str, *, text: bool
) -> OpenClipBackbone:
    """Load a model of open_clip's; see `cptlite.backbones.load_backbone`."""
    check_name(name, found)
    config, pixels = read_config(found.model), pixel_facts(found.model, found.tag)
    prompts = not _is_hugging_face(config)
    built: Any = build_model(config, int(found.seed or 0))
    if found.tag or found.file:
        path = Path(found.file) if found.file else download_weights(found)
        pixels |= read_weights(path, built, config, name, prompts=prompts)
    if not prompts:
        built.text = nn.Identity()
    digest = _digest(built, config)
    side = _side(built.visual.image_size, name)
    model = OpenClipModel(built, side, config["embed_dim"], prompts=prompts)
    if not text:
        _drop_text(model)
    model.requires_grad_(False).eval().to(device)
    model.lower(PRECISIONS[precision])
    freeze_blocks(model, linear_backend)  # type: ignore[arg-type]
    return OpenClipBackbone(
        name=name,
        weights_sha256=digest,
        precision=precision,
        linear_backend=linear_backend,
        model=model,
        config=config,
        pixels=_preprocess_spec(pixels, side),
        tokens=find_tokenizer(found.model, config),
    )


def _is_hugging_face(config: Mapping[str, Any]) -> bool:
    return bool(config["text_cfg"].get("hf_model_name"))


def _digest(built: nn.Module, config: Mapping[str, Any]) -> str:
    """Digest of weights and configuration: equal weights give other features with another activation or heads."""
    words = json.dumps(config, sort_keys=True)
    return hashlib.sha256(f"{weights_sha256(built)} {words}".encode()).hexdigest()


def _side(size: int | tuple[int, int], name: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise DataError(f"wanted a model of square images, got {name!r} of {height} x {width} pixels")
    return height


def _preprocess_spec(pixels: Mapping[str, Any], side: int) -> dict[str, Any]:
    spec = {
        "resize": side,
        "interpolation": "bilinear" if pixels["interpolation"] == "bilinear" else "bicubic",
        "crop": CROPS[pixels["resize_mode"]],
        "mean": list(map(float, pixels["mean"])),
        "std": list(map(float, pixels["std"])),
    }
    return spec | ({"fill": pixels["fill_color"]} if spec["crop"] == "pad" else {})


def _drop_text(model: OpenClipModel) -> None:
    """Let go of the text tower: its memory is free again."""
    model.whole_text = None
    model.transformer.resblocks = nn.Sequential()
    for part in ("token_embedding", "positional_embedding", "ln_final"):
        delattr(model, part)
