"""Checkpoints as training scripts, open_clip and Hugging Face save them, brought to OpenAI's key names.

A name is only ever replaced by another name of the same tensor; what is left over afterwards is refused where the
model is built, by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["find_weights", "openai_keys", "openclip_keys"]

MAX_DEPTH = 8  # of state dicts in other dicts
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
WRAPPERS = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning and torch.compile
# Facts that archives store beside the weights, and a mask that older versions of open_clip do.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "n_averaged", "attn_mask")

# Of open_clip's models whose text tower is no module of its own, what belongs to it; and what of CoCa writes captions.
TEXT_KEYS = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
DECODER = "text_decoder."

# Hugging Face's names, in the order in which they are replaced; in front of them stands the tower's.
HUGGING_FACE_TOWERS = {"text_model.": "", "vision_model.": "visual."}
HUGGING_FACE_NAMES = (
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.", "conv1."),
    ("pre_layrnorm.", "ln_pre."),  # so spelt there
    ("post_layernorm.", "ln_post."),
    ("final_layer_norm.", "ln_final."),
    ("encoder.layers.", "transformer.resblocks."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
)
HUGGING_FACE_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
QUERY = re.compile(r"(.*\.attn\.)q_proj\.(weight|bias)")


def find_weights(content: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Find the state dict in what a training script saved.

    Parameters
    ----------
    content : object
        As it was read: a state dict, or a dict that holds one under ``state_dict``, ``model_state_dict``, ``model`` or
        ``net``, perhaps in each other.

    Returns
    -------
    state : mapping of str to object
        Not yet checked to hold tensors alone.
    beside : mapping of str to object
        What lay beside it, a configuration perhaps.

    Raises
    ------
    ValueError
        There is no dict, too many in each other, or one state dict beside another.
    """
    beside: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):  # a dict of a file may hold itself
        if not isinstance(content, Mapping):
            break
        found = [name for name in CONTAINERS if isinstance(content.get(name), Mapping)]
        if any(isinstance(value, Tensor) for value in content.values()) or not found:
            return content, beside
        holding = [name for name in found if any(isinstance(value, Tensor) for value in content[name].values())]
        if len(holding) > 1:
            raise ValueError(f"one state dict under each of {', '.join(holding)}")
        beside |= {key: value for key, value in content.items() if key not in found}
        content = content[(holding or found)[0]]
    raise ValueError(f"a {type(content).__name__}" if not isinstance(content, Mapping) else "dicts nested too deep")


def openai_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a CLIP OpenAI's names.

    Parameters
    ----------
    state : mapping of str to Tensor
        In OpenAI's names, in open_clip's or in those of Hugging Face's ``CLIPModel`` with a vision transformer, with
        wrappers' prefixes or without.

    Returns
    -------
    dict of str to Tensor
        Without the archive's facts; names that are not known stay.

    Raises
    ------
    ValueError
        Two tensors would have one name.
    """
    named = _all_unwrapped(state)
    if any(name.startswith(tuple(HUGGING_FACE_TOWERS)) for name in named):
        named = _from_hugging_face(named)
    elif "text.ln_final.weight" in named:  # open_clip's text tower, where it is a module of its own
        named = {name.removeprefix("text."): value for name, value in named.items()}
    return {name: value for name, value in named.items() if name not in NOT_WEIGHTS}


def openclip_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a model of open_clip's the names they have where the text tower is a module of its own.

    Parameters
    ----------
    state : mapping of str to Tensor
        In open_clip's names of either form, or in OpenAI's, with wrappers' prefixes or without.

    Returns
    -------
    dict of str to Tensor
        Without an archive's facts and what is of a caption decoder.

    Raises
    ------
    ValueError
        Two tensors would have one name.
    """
    named = _all_unwrapped(state)
    if "text_projection" in named:
        named = {f"text.{name}" if name.startswith(TEXT_KEYS) else name: value for name, value in named.items()}
    return {
        name: value
        for name, value in named.items()
        if name.removeprefix("text.") not in NOT_WEIGHTS and not name.startswith(DECODER)
    }


def _all_unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _unwrapped(key)
        if name in named:
            raise ValueError(f"{key!r} stands there twice, once in a wrapper")
        named[name] = value
    return named


def _unwrapped(key: str) -> str:
    name = key.replace("._orig_mod.", ".")  # a part of the model may be compiled, not all of it
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in HUGGING_FACE_PROJECTIONS and value.ndim == 2:
            renamed[HUGGING_FACE_PROJECTIONS[key]] = value.T  # (D, W) there
        elif not key.endswith(".position_ids"):
            renamed[_hugging_face_name(key)] = value
    for key in list(renamed):
        match = QUERY.fullmatch(key)
        if match is None:
            continue
        front, kind = match.groups()
        parts = [renamed.get(f"{front}{letter}_proj.{kind}") for letter in "qkv"]
        known = [part for part in parts if part is not None]
        if len(known) == 3 and len({part.shape for part in known}) == 1:
            renamed[f"{front}in_proj_{kind}"] = torch.cat(known)  # (3 W, W) or (3 W,)
            for letter in "qkv":
                del renamed[f"{front}{letter}_proj.{kind}"]
    return renamed


def _hugging_face_name(key: str) -> str:
    for tower, front in HUGGING_FACE_TOWERS.items():
        if key.startswith(tower):
            name = key.removeprefix(tower)
            for theirs, ours in HUGGING_FACE_NAMES:
                name = name.replace(theirs, ours)
            return front + name
    return key
