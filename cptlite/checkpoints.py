"""Checkpoint files of CLIP in OpenAI's key names: finding, downloading and reading them.

Formats: OpenAI's JIT archive, a pickled state dict, safetensors, and safetensors with only the used token rows.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from cptlite.errors import DataError

with warnings.catch_warnings():  # clip imports pkg_resources, deprecated in setuptools
    warnings.simplefilter("ignore")
    from clip import clip

__all__ = ["openai_checkpoint", "read_state_dict", "seeded_token_rows"]

# Facts that OpenAI's archives store beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def openai_checkpoint(name: str) -> Path:
    """Path of an OpenAI checkpoint in ``~/.cache/clip``, downloaded where it is not there yet.

    Raises
    ------
    DataError
        It is not there and cannot be downloaded; the message says which file to put where.
    """
    url = clip._MODELS[name]
    folder = Path("~/.cache/clip").expanduser()
    target = folder / Path(url).name
    try:
        return Path(clip._download(url, str(folder)))
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"backbone {name!r}: its weights are not at {target} and could not be downloaded ({error}). "
            f"Get {url} on a machine with a network and put it at {target}, "
            f"or give --backbone the path of a checkpoint, or --backbone demo"
        ) from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        JIT archive, pickled state dict (plain, or under the key ``state_dict``) or safetensors.

    Returns
    -------
    dict of str to Tensor
        In OpenAI's key names, without a ``module.`` prefix and without the archive's non-weights.

    Raises
    ------
    DataError
        The file is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = _read_safetensors(path)
        else:
            state = _read_torch(path)
    except Exception as error:  # the unpickler raises anything at all on a foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot read the checkpoint {path}: wanted a JIT archive, a state dict or safetensors, got a file "
            f"that torch refuses ({reason}): download or save it again"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict of tensors: save model.state_dict() of an OpenAI CLIP")
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in plain.items() if key not in NOT_WEIGHTS}


def _read_torch(path: Path) -> Any:
    """Read a JIT archive's state dict, or what ``torch.load`` finds without running code from the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated; OpenAI's files are nothing else
        try:
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
        except RuntimeError:
            return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if "token_embedding.used_ids" not in state:
        return state
    ids = state.pop("token_embedding.used_ids").long()
    rows = state.pop("token_embedding.used_rows").float()
    table = seeded_token_rows(int(facts["token_seed"]), int(facts["vocab_size"]), rows.shape[1])
    table[ids] = rows
    return {**state, "token_embedding.weight": table}


def seeded_token_rows(seed: int, vocab_size: int, width: int) -> Tensor:
    """Token rows that no training caption used, as they stood before training.

    Returns
    -------
    Tensor of shape (vocab_size, width), float32
        N(0, 0.02^2) from NumPy's generator, so that the file need not hold them.
    """
    draws = np.random.default_rng(seed).standard_normal((vocab_size, width), dtype=np.float32)
    return torch.from_numpy(draws * np.float32(0.02))
