"""Checkpoint files of CLIP in OpenAI's key names: finding, downloading and reading them.

Formats: OpenAI's JIT archive, a pickled state dict, safetensors, and safetensors with only the used token rows.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from cptlite.backbones.architectures import ARCHITECTURES
from cptlite.backbones.clip import CLIP, build_model, checkpoint_url, download
from cptlite.errors import DataError, UsageError

__all__ = [
    "DEMO_CHECKPOINT",
    "build_clip",
    "find_state_dict",
    "openai_checkpoint",
    "read_state_dict",
    "seeded_token_rows",
    "weights_sha256",
]

DEMO_CHECKPOINT = Path(__file__).parents[1] / "assets" / "demo_clip.safetensors"

# Facts that OpenAI's archives store beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def find_state_dict(name: str) -> dict[str, Tensor]:
    """Find or make the weights a backbone's name stands for.

    Parameters
    ----------
    name : str
        As in `cptlite.backbones.clip.load_backbone`.

    Returns
    -------
    dict of str to Tensor
        In OpenAI's key names.

    Raises
    ------
    UsageError, DataError
        Unknown name, or no readable file.
    """
    kind, _, rest = name.partition(":")
    if kind == "random":
        architecture, _, seed = rest.partition(":")
        return _random_state_dict(architecture, seed or "0")
    if name == "demo":
        return read_state_dict(DEMO_CHECKPOINT)
    if name in ARCHITECTURES:
        return read_state_dict(openai_checkpoint(name))
    if Path(name).is_file():
        return read_state_dict(Path(name))
    if "/" in name or "\\" in name or Path(name).suffix:
        raise DataError(f"no checkpoint at {name!r}: give the path of a file, or one of {_known_names()}")
    raise UsageError(f"unknown backbone {name!r}: give one of {_known_names()}, or a checkpoint's path")


def _known_names() -> str:
    return ", ".join([*ARCHITECTURES, "random:NAME[:SEED]"])


def _random_state_dict(architecture: str, seed: str) -> dict[str, Tensor]:
    if architecture not in ARCHITECTURES or not seed.isdecimal() or int(seed) >= 2**63:
        raise UsageError(
            f"cannot make random weights for {architecture!r} with seed {seed!r}: "
            f"give random:NAME[:SEED] with NAME one of {', '.join(ARCHITECTURES)} and SEED a whole number below 2^63"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return CLIP(**ARCHITECTURES[architecture]).state_dict()


def build_clip(state: Mapping[str, Tensor], name: str) -> CLIP:
    """Build the CLIP a state dict describes, in float32.

    Parameters
    ----------
    state : mapping of str to Tensor
        In OpenAI's key names.
    name : str
        Of the backbone, for the message.

    Raises
    ------
    DataError
        The tensors are not those of a CLIP.
    """
    weights = {key: value.float() for key, value in state.items()}
    try:
        with torch.random.fork_rng(devices=[]):  # building draws initial weights; keep the caller's generator
            model = build_model(dict(weights)).float()
        # build_model rounds to float16; the stored weights may be finer.
        model.load_state_dict(weights)
    except (KeyError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"backbone {name!r}: wanted a CLIP in OpenAI's key names, got {len(weights)} tensors that do not "
            f"fit ({reason}): give a checkpoint saved from OpenAI's CLIP"
        ) from None
    return model


def weights_sha256(model: nn.Module) -> str:
    """Return the hex digest of a model's weights as float32, by sorted key."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def openai_checkpoint(name: str) -> Path:
    """Path of an OpenAI checkpoint in ``~/.cache/clip``, downloaded where it is not there yet.

    Raises
    ------
    DataError
        It is not there and cannot be downloaded; the message says which file to put where.
    """
    url = checkpoint_url(name)
    folder = Path("~/.cache/clip").expanduser()
    target = folder / Path(url).name
    try:
        return download(name, folder)
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
        # The library's own text advises to load it unsafely; its kind is enough.
        raise DataError(
            f"cannot read the checkpoint {path}: wanted a JIT archive, a state dict or safetensors, got something "
            f"else ({type(error).__name__}): download or save it again"
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
