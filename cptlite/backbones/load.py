"""CLIP weights in, by name or file; a `Backbone` out."""

from __future__ import annotations

from typing import Any

from cptlite.backbones.absent import NoTowers
from cptlite.backbones.backbone import PRECISIONS, Backbone, drop_text_tower, resolve_precision, set_precision
from cptlite.backbones.checkpoints import find_state_dict
from cptlite.backbones.linear import find_linear_backend, freeze_blocks
from cptlite.backbones.names import feature_space, openclip_name
from cptlite.backbones.openclip.backbone import load_openclip
from cptlite.backbones.weights import build_clip, weights_sha256
from cptlite.environment import find_device

__all__ = ["load_backbone", "load_image_tower"]


def load_backbone(
    name: str, *, device: str = "auto", precision: str = "auto", linear_backend: str = "auto"
) -> Backbone:
    """Load a frozen CLIP.

    Parameters
    ----------
    name : str
        An OpenAI name (``RN50``, ``ViT-B/16``, ...), a checkpoint path (JIT archive, state dict or safetensors, in
        OpenAI's, open_clip's or Hugging Face's key names), ``random:NAME[:SEED]``, ``demo``,
        ``openclip:MODEL[:SEED]`` or ``openclip:MODEL/PRETRAINED`` or ``openclip:MODEL/FILE`` (needs open_clip), or
        ``features:ENCODER:DIMENSION`` for features made elsewhere, of which there are no towers.
    device : str
        ``auto`` takes the GPU where there is one.
    precision : str
        ``auto``, or one of `PRECISIONS`. Auto is float32 on the CPU, bf16 on a GPU.
    linear_backend : str
        ``auto``, ``onednn`` (frozen weights packed for the CPU) or ``torch`` (``F.linear``); see `find_linear_backend`.

    Returns
    -------
    Backbone

    Raises
    ------
    UsageError
        Unknown name, device, precision or linear backend.
    DataError
        The weights are missing, cannot be downloaded, are not a CLIP of OpenAI's form, or not finite.
    CptliteError
        The name is one of open_clip's, which is not installed.
    """
    return _load(name, device, precision, linear_backend, text=True)


def load_image_tower(
    name: str, *, device: str = "auto", precision: str = "auto", linear_backend: str = "auto"
) -> Backbone:
    """Load a frozen CLIP as `load_backbone` does, but let go of its text tower as soon as all weights are digested.

    It takes no memory then, and `Backbone.text_tower` is an error.
    """
    return _load(name, device, precision, linear_backend, text=False)


def _load(name: str, device: str, precision: str, linear_backend: str, *, text: bool) -> Backbone:
    place = find_device(device)
    kind = resolve_precision(precision, place)
    linear = find_linear_backend(linear_backend, place, PRECISIONS[kind])
    if (space := feature_space(name)) is not None:
        absent: Any = NoTowers(name, space[1]).to(place)
        return Backbone(name=name, weights_sha256=absent.sha256, precision=kind, model=absent)
    if (found := openclip_name(name)) is not None:
        return load_openclip(name, found, place, kind, linear, text=text)
    model = build_clip(find_state_dict(name), name)
    weights = weights_sha256(model)
    if not text:
        drop_text_tower(model)
    model = set_precision(model.requires_grad_(False).eval().to(place), PRECISIONS[kind])
    freeze_blocks(model, linear)
    return Backbone(name=name, weights_sha256=weights, precision=kind, linear_backend=linear, model=model)
