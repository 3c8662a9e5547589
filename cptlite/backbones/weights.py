"""A CLIP built of its weights, which are checked before and digested after."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cptlite.backbones.architectures import HEAD_WIDTH
from cptlite.backbones.clip import CLIP, build_model
from cptlite.errors import DataError

__all__ = ["build_clip", "check_finite", "misfit", "own_float32", "weights_sha256"]

MAX_CONTEXT = 1024  # CLIP's is 77; memory grows with its square
ALIGNMENT = 64  # bytes; sums may be grouped otherwise elsewhere
PART = 2**22  # numbers looked at together
SHOWN_KEYS = 4
KEY_BREAK, KEY_END = '", "', '". '  # as PyTorch lists them
MAX_REASON = 600
# Training keeps the factor at 100 or below; half precision rounds its logarithm up.
MAX_LOGIT_SCALE = math.log(100) + 0.005


def build_clip(state: Mapping[str, Tensor], name: str) -> CLIP:
    """Build the CLIP a state dict describes, in float32.

    Parameters
    ----------
    state : mapping of str to Tensor
        In OpenAI's key names. The model keeps tensors of float32 as they are, so that they are in memory once.
    name : str
        Of the backbone, for the message.

    Raises
    ------
    DataError
        The tensors are not those of a CLIP, which the message says by their keys; or are no weights, being not finite.
    """
    weights = {key: own_float32(value) for key, value in state.items()}
    try:
        _check_sizes(weights)
        # Shapes alone, at first: a file of a few wrong shapes could ask for any amount of memory.
        with torch.device("meta"):
            model = build_model({key: value.to("meta") for key, value in weights.items()}).float()
    except (KeyError, RuntimeError, AssertionError, ZeroDivisionError, IndexError, ValueError) as error:
        raise DataError(
            f"backbone {name!r}: wanted a CLIP in OpenAI's key names, got {len(weights)} tensors that do not "
            f"fit ({misfit(error)}): give a checkpoint saved from OpenAI's CLIP"
        ) from None
    _check_numbers(weights, name)
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.to(kinds[key]) for key, value in weights.items()}, assign=True)
    mask = model.build_attention_mask()  # neither parameter nor buffer, so it has no numbers yet
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    return model


def own_float32(value: Tensor) -> Tensor:
    """Give a tensor as the model is to hold it: float32, without gaps, from where PyTorch would have it begin."""
    value = value.detach().float().contiguous()
    return value if value.data_ptr() % ALIGNMENT == 0 else value.clone()


def _check_sizes(weights: Mapping[str, Tensor]) -> None:
    """Refuse sizes of which OpenAI's rules make no model, or one of another kind."""
    empty = [key for key, value in weights.items() if not value.numel()]
    if empty:
        raise ValueError(f"no numbers in {_shown(empty)}")
    for key in ("ln_final.weight", "visual.ln_post.weight"):
        width = weights[key].numel() if key in weights else 0
        if width % HEAD_WIDTH:
            raise ValueError(
                f"{key!r} is {width} wide, which OpenAI's heads of {HEAD_WIDTH} do not divide; another number of heads "
                f"cannot be read from the shapes"
            )
    context = len(weights["positional_embedding"])
    if context > MAX_CONTEXT:
        raise ValueError(f"'positional_embedding' has {context} positions, more than {MAX_CONTEXT}")


def misfit(error: Exception) -> str:
    """Say what does not fit, by the whole names of its tensors."""
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}"
    lines = str(error).splitlines()
    if len(lines) < 2:
        return str(error)[:MAX_REASON]
    # PyTorch's first line says that loading failed, each other what is missing, what is unexpected, or a shape.
    kinds = []
    for line in map(str.strip, lines[1:]):
        words, separator, keys = line.partition('(s) in state_dict: "')
        kinds.append(f"{words.lower()} {_shown(keys.rstrip(KEY_END).split(KEY_BREAK))}" if separator else line)
    more = f"; and {len(kinds) - SHOWN_KEYS} more" if len(kinds) > SHOWN_KEYS else ""
    return "; ".join(kinds[:SHOWN_KEYS]) + more


def _shown(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(repr(key[:MAX_REASON]) for key in keys[:SHOWN_KEYS]) + more


def _check_numbers(weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights of which no score can come."""
    check_finite(weights, name)
    scale = float(weights["logit_scale"])
    if scale > MAX_LOGIT_SCALE:
        raise DataError(
            f"backbone {name!r}: its 'logit_scale' is {scale:.4g}, CLIP's is the logarithm of at most 100, "
            f"{math.log(100):.4g}: give another checkpoint, or one that stores the logarithm"
        )


def check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that are not finite."""
    for key, value in weights.items():
        bad = sum(int(part.isfinite().logical_not().sum()) for part in value.flatten().split(PART))
        if bad:
            raise DataError(
                f"backbone {name!r}: {bad} of {value.numel()} numbers of its tensor {key!r} are not finite: the "
                f"training that made it has diverged, or the file is damaged; give another checkpoint"
            )


def weights_sha256(model: nn.Module) -> str:
    """Return the hex digest of a model's weights as float32, by sorted key."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
