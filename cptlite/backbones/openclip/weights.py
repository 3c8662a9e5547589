"""Weights of open_clip's models from files, which are read as data, whatever they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cptlite.backbones.checkpoints import read_tensors
from cptlite.backbones.configs import OPEN_CLIP, read_configuration
from cptlite.backbones.layouts import openclip_keys
from cptlite.backbones.openclip.library import PIXELS, full_config
from cptlite.backbones.weights import check_finite, misfit, own_float32
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError

__all__ = ["read_weights"]

CHOICES = {"interpolation": ("bicubic", "bilinear", "random"), "resize_mode": ("shortest", "longest", "squash")}
# Of a configuration, what says nothing of how the towers compute.
BESIDE = ("hf_tokenizer_name", "tokenizer_kwargs", "hf_model_pretrained", "timm_model_pretrained", "output_tokens")


def read_weights(path: Path, model: Any, config: Mapping[str, Any], name: str, *, prompts: bool) -> dict[str, Any]:
    """Read a checkpoint into a model that was built.

    Parameters
    ----------
    path : Path
        A state dict or safetensors, in open_clip's key names of either form, or OpenAI's.
    model : nn.Module
        Of `build_model`; it takes the tensors over.
    config : mapping
        Of the model.
    name : str
        Of the backbone, for messages.
    prompts : bool
        Whether the text tower is wanted.

    Returns
    -------
    dict of str to object
        What ``open_clip_config.json`` beside the file says of preprocessing.

    Raises
    ------
    DataError
        The file is not there, cannot be read, is of another model, or holds numbers that are not finite.
    """
    if not path.exists():
        rooted = Path("/") / path
        meant = f"; for an absolute path write /{rooted}" if not path.is_absolute() and rooted.exists() else ""
        raise DataError(f"backbone {name!r}: no checkpoint at {str(path)!r}: give the path of a file{meant}")
    beside = read_configuration(path.with_name(OPEN_CLIP)) or {}
    if not isinstance(beside, Mapping):
        raise DataError(f"wanted a configuration in {path.with_name(OPEN_CLIP)}, got no JSON object: mend or remove it")
    _check_configuration(beside.get("model_cfg"), config, path)
    pixels = _pixels(beside.get("preprocess_cfg"), path)
    state, _ = read_tensors(path, openclip_keys)
    if not prompts:
        state = {key: value for key, value in state.items() if not key.startswith("text.")}
    _fill(model, state, name, prompts)
    return pixels


def _fill(model: Any, state: Mapping[str, Tensor], name: str, prompts: bool) -> None:
    """Put tensors in the place of a model's own, all of them or none."""
    own = {key: value for key, value in model.state_dict().items() if prompts or not key.startswith("text.")}
    found = {key: own_float32(value) for key, value in state.items()}
    if "logit_bias" in own:  # of a model that was trained without it
        found.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    for key in ("logit_scale", "logit_bias"):  # with an axis, or without
        if key in found and key in own and found[key].numel() == 1:
            found[key] = found[key].view_as(own[key])
    if "logit_bias" not in own:
        found.pop("logit_bias", None)
    check_finite(found, name)
    try:
        if missing := sorted(own.keys() - found.keys()):
            raise ValueError(f"there is no {missing[0]!r}, of {len(missing)} that are missing")
        found = {key: value.to(own[key].dtype) if key in own else value for key, value in found.items()}
        with torch.no_grad():
            unexpected = model.load_state_dict(found, assign=True, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(f"it has {unexpected[0]!r}, of {len(unexpected)} that are not wanted")
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"backbone {name!r}: wanted the weights of that model in open_clip's key names, got {len(state)} tensors "
            f"that do not fit ({misfit(error)}): give the model they were trained as"
        ) from None


def _check_configuration(found: Any, config: Mapping[str, Any], path: Path) -> None:
    """Refuse weights whose own configuration is another model's: shapes alone do not tell heads and activation."""
    if not isinstance(found, Mapping):
        return
    try:
        different = list(_differences(full_config(found), full_config(config)))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise DataError(
            f"wanted a model's configuration in {path.with_name(OPEN_CLIP)}, got one that cannot be read "
            f"({shown(error)}): mend it, or move the checkpoint away from it"
        ) from None
    if different:
        raise DataError(
            f"the checkpoint {path} is of another model: after {path.with_name(OPEN_CLIP)} it has "
            f"{shown('; '.join(different))}: give openclip:MODEL/FILE with the model it was trained as"
        )


def _differences(found: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    for name, ours in config.items():
        if isinstance(ours, Mapping):
            yield from (f"in {name} {words}" for words in _differences(found[name], ours))
        elif name not in BESIDE and found[name] != ours:
            yield f"{name} {found[name]!r}, not {ours!r}"


def _pixels(found: Any, path: Path) -> dict[str, Any]:
    """Take over what a file says of preprocessing, if it can be meant."""
    if not isinstance(found, Mapping):
        return {}
    taken = {name: found[name] for name in PIXELS if found.get(name) is not None}
    for name, value in taken.items():
        if name in ("mean", "std"):
            value = taken[name] = [value] * 3 if isinstance(value, int | float) else value
            right = isinstance(value, list) and len(value) == 3 and all(_is_number(each) for each in value)
            right = right and (name == "mean" or min(value) > 0)
        elif name in CHOICES:
            right = value in CHOICES[name]
        else:
            right = isinstance(value, int) and 0 <= value <= 255
        if not right:
            raise DataError(
                f"{path.with_name(OPEN_CLIP)}: wanted how images are prepared, got {name} {shown(repr(value))}: mend "
                f"the file, or move the checkpoint away from it"
            )
    return taken


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
