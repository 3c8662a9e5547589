"""What the configuration beside a checkpoint says about it that its shapes cannot: heads and activation.

OpenAI's model, which this package builds, has heads of 64 wide, the activation QuickGELU and CLIP's pixel statistics. A
checkpoint that says otherwise would load without a word and give other features, so it is refused.

Sources: ``config.json`` of Hugging Face's ``CLIPConfig``; ``open_clip_config.json`` and ``open_clip.CLIPVisionCfg``,
``CLIPTextCfg``, whose defaults are those below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cptlite.backbones.architectures import HEAD_WIDTH, PIXEL_MEAN, PIXEL_STD
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError

__all__ = ["OPEN_CLIP", "check_configurations", "read_configuration"]

MAX_BYTES = 2**20
HUGGING_FACE, OPEN_CLIP = "config.json", "open_clip_config.json"
HUGGING_FACE_HEADS = {"text": 8, "vision": 12}
OPEN_CLIP_TEXT_HEADS = 8
OPEN_CLIP_PLAIN = {"vision": {"pool_type": "tok"}, "text": {"pool_type": "argmax"}}


def check_configurations(path: Path, state: Mapping[str, Tensor], beside: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose own configuration describes another model than OpenAI's.

    Parameters
    ----------
    path : Path
        Of the checkpoint; ``config.json`` and ``open_clip_config.json`` are looked for beside it.
    state : mapping of str to Tensor
        Its weights, in OpenAI's names.
    beside : mapping of str to object
        What the file holds beside them, of which ``config`` or ``model_cfg`` may be a configuration.

    Raises
    ------
    DataError
        A configuration differs, with each difference; or one cannot be read.
    """
    found = {f"{name!r} in {path}": beside.get(name) for name in ("config", "model_cfg")}
    found |= {str(path.with_name(name)): read_configuration(path.with_name(name)) for name in (HUGGING_FACE, OPEN_CLIP)}
    for place, config in found.items():
        if not isinstance(config, Mapping):
            continue
        try:
            different = list(_differences(config, _widths(state)))
        except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
            raise DataError(
                f"wanted a CLIP's configuration in {place}, got one that cannot be read ({shown(error)})"
            ) from None
        if different:
            raise DataError(
                f"the checkpoint {path} is of another model than OpenAI's CLIP: after {place} it has "
                f"{'; '.join(different)}. Nothing here computes that: give a checkpoint of OpenAI's form"
            )


def read_configuration(path: Path) -> Any:
    """Read a file of JSON that lies beside a checkpoint; None where there is none."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"wanted the configuration of a checkpoint in {path}, got a file that cannot be read "
            f"({str(error) or type(error).__name__}): mend it, or move the checkpoint away from it"
        ) from None


def _widths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Width of each transformer; the tower of a residual network has none."""
    keys = {"text": "ln_final.weight", "vision": "visual.ln_post.weight"}
    return {tower: state[key].numel() for tower, key in keys.items() if key in state}


def _differences(config: Mapping[str, Any], widths: Mapping[str, int]) -> Iterator[str]:
    if "text_config" in config or "vision_config" in config:
        yield from _hugging_face_differences(config, widths)
    model = config.get("model_cfg", config)
    if "text_cfg" in model or "vision_cfg" in model:
        yield from _open_clip_differences(model, config.get("preprocess_cfg") or {}, widths)


def _hugging_face_differences(config: Mapping[str, Any], widths: Mapping[str, int]) -> Iterator[str]:
    for tower, width in widths.items():
        part = {**(config.get(f"{tower}_config") or {}), **(config.get(f"{tower}_config_dict") or {})}
        yield from _other_heads(tower, part.get("num_attention_heads", HUGGING_FACE_HEADS[tower]), width)
        if part.get("hidden_act", "quick_gelu") != "quick_gelu":
            yield f"the activation {part['hidden_act']!r} in its {tower} tower, OpenAI's is 'quick_gelu'"
        if float(part.get("layer_norm_eps", 1e-5)) != 1e-5:
            yield f"layer norms with epsilon {part['layer_norm_eps']!r} in its {tower} tower, OpenAI's is 1e-05"


def _open_clip_differences(
    model: Mapping[str, Any], pixels: Mapping[str, Any], widths: Mapping[str, int]
) -> Iterator[str]:
    parts = {"text": model.get("text_cfg") or {}, "vision": model.get("vision_cfg") or {}}
    if not model.get("quick_gelu", False):
        yield "the activation 'gelu' (no quick_gelu is set), OpenAI's is 'quick_gelu'"
    if "text" in widths:
        yield from _other_heads("text", parts["text"].get("heads", OPEN_CLIP_TEXT_HEADS), widths["text"])
    if "vision" in widths:
        head_width = int(parts["vision"].get("head_width", HEAD_WIDTH))
        yield from _other_heads("vision", widths["vision"] // head_width, widths["vision"])
    for tower, plain in OPEN_CLIP_PLAIN.items():
        for name, value in plain.items():
            if parts[tower].get(name, value) != value:
                yield f"{name} {parts[tower][name]!r} in its {tower} tower, OpenAI's is {value!r}"
    if parts["text"].get("no_causal_mask", False):
        yield "a text tower without causal mask"
    for name, values in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)):
        found = tuple(map(float, pixels.get(name) or values))
        if found != values:
            yield f"pixel {name} {found!r}, OpenAI's is {values}"


def _other_heads(tower: str, heads: Any, width: int) -> Iterator[str]:
    if heads != width // HEAD_WIDTH:
        yield f"{heads!r} heads in its {tower} tower of width {width}, OpenAI's has {width // HEAD_WIDTH}"
