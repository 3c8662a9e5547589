"""Checkpoint files of CLIP: finding, downloading and reading them, as data.

Formats: OpenAI's JIT archive, a pickled state dict, safetensors, and safetensors with only the used token rows.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones.architectures import ARCHITECTURES
from cptlite.backbones.archives import read_torch
from cptlite.backbones.clip import CLIP, checkpoint_url, download
from cptlite.backbones.configs import check_configurations
from cptlite.backbones.layouts import find_weights, openai_keys
from cptlite.backbones.names import nearest_name
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError, UsageError
from cptlite.files import BoundedReader, file_kind

__all__ = [
    "DEMO_CHECKPOINT",
    "find_state_dict",
    "openai_checkpoint",
    "openai_target",
    "read_state_dict",
    "read_tensors",
    "seeded_token_rows",
]

DEMO_CHECKPOINT = Path(__file__).parents[1] / "assets" / "demo_clip.safetensors"

MAX_BYTES = 16 * 2**30  # the largest CLIP known has 10
MAX_TENSORS = 10_000  # RN50x64 has 1,200
MAX_REASON = 300
VOCABULARY = 49408
MAX_WIDTH = 1280  # of the token rows that a file may leave out: that of the largest CLIP known
MAX_UNPACKED = 4 * VOCABULARY * MAX_WIDTH


def find_state_dict(name: str) -> dict[str, Tensor]:
    """Find or make the weights a backbone's name stands for.

    Parameters
    ----------
    name : str
        As in `cptlite.backbones.load.load_backbone`.

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
    if os.path.exists(name):
        return read_state_dict(Path(name))
    meant = _spelt_right(name)
    if meant:
        raise UsageError(f"unknown backbone {name!r}: did you mean {meant}?")
    if "/" in name or "\\" in name or Path(name).suffix:
        raise DataError(f"no checkpoint at {name!r}: give the path of a file, or one of {_known_names()}")
    raise UsageError(f"unknown backbone {name!r}: give one of {_known_names()}, or a checkpoint's path")


def _known_names() -> str:
    return ", ".join([*ARCHITECTURES, "random:NAME[:SEED]", "openclip:MODEL[/PRETRAINED|FILE]"])


def _spelt_right(name: str) -> str:
    """Names that a known one was spelt like, for the message; "" if it is like none."""
    prefix, colon, rest = name.partition(":")
    if colon and re.fullmatch(r"open[-_ ]?clip", prefix.casefold()):
        known = nearest_name(rest, ARCHITECTURES)
        return repr(f"openclip:{_openclip_spelling(known) if known else rest}")
    if colon and prefix.casefold() == "random":
        return repr(f"random:{nearest_name(rest, ARCHITECTURES) or rest}")
    known = nearest_name(name, ARCHITECTURES)
    if known is None:
        return ""
    if "/" in known and "/" not in name:  # as open_clip spells it
        return f"{known!r} (OpenAI's weights) or {f'openclip:{_openclip_spelling(known)}'!r}"
    return repr(known)


def _openclip_spelling(known: str) -> str:
    return known.replace("/", "-").replace("@", "-").removesuffix("px")


def _random_state_dict(architecture: str, seed: str) -> dict[str, Tensor]:
    if architecture not in ARCHITECTURES or not seed.isdecimal() or int(seed) >= 2**63:
        raise UsageError(
            f"cannot make random weights for {architecture!r} with seed {seed!r}: "
            f"give random:NAME[:SEED] with NAME one of {', '.join(ARCHITECTURES)} and SEED a whole number below 2^63"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return CLIP(**ARCHITECTURES[architecture]).state_dict()


def openai_target(name: str) -> Path:
    """Path in ``~/.cache/clip`` of an OpenAI checkpoint, by the backbone's name, there or not."""
    return Path("~/.cache/clip").expanduser() / Path(checkpoint_url(name)).name


def openai_checkpoint(name: str) -> Path:
    """Path of an OpenAI checkpoint in ``~/.cache/clip``, downloaded where it is not there yet.

    Raises
    ------
    DataError
        It is not there and cannot be downloaded; the message says which file to put where.
    """
    url, target = checkpoint_url(name), openai_target(name)
    try:
        return download(name, target.parent)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"backbone {name!r}: its weights are not at {target} and could not be downloaded ({error}). "
            f"Get {url} on a machine with a network and put it at {target}, "
            f"or give --backbone the path of a checkpoint, or --backbone demo"
        ) from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint; nothing that the file says is run.

    Parameters
    ----------
    path : Path
        JIT archive, pickled state dict (plain, or in what a training script saved) or safetensors.

    Returns
    -------
    dict of str to Tensor
        In OpenAI's key names as far as they are known, without wrappers' prefixes and the archive's non-weights.

    Raises
    ------
    DataError
        The file is none of these, or claims more than it holds; or a configuration in it or beside it describes
        another model than OpenAI's.
    """
    state, beside = read_tensors(path, openai_keys)
    check_configurations(path, state, beside)
    return state


def read_tensors(
    path: Path, rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read the tensors of a checkpoint as `read_state_dict` does, whatever model they are of.

    Returns
    -------
    state : dict of str to Tensor
        Renamed by ``rename``, which raises ValueError for what it cannot name.
    beside : mapping of str to object
        What the file holds beside them.
    """
    size = _size_of_regular_file(path)
    try:
        if path.suffix == ".safetensors":
            content = _read_safetensors(path)
        else:
            with BoundedReader(path) as file:
                content = read_torch(file)
    except Exception as error:  # the readers raise anything at all on a foreign file
        raise DataError(
            f"cannot read the checkpoint {path}: wanted a JIT archive, a state dict or safetensors, got something "
            f"else ({_reason(error)}): download or save it again"
        ) from None
    try:
        found, beside = find_weights(content)
        _check_tensors(found, size)
        return rename(found), beside
    except ValueError as error:
        raise DataError(
            f"{path} holds no state dict of tensors, but {error}: save model.state_dict() of a CLIP"
        ) from None


def _size_of_regular_file(path: Path) -> int:
    """Bytes of a checkpoint, looked at before it is opened: opening a pipe would wait for its other end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"wanted a checkpoint at {path}, got {file_kind(found.st_mode)}: give the path of a file")
    if found.st_size > MAX_BYTES:
        raise DataError(
            f"wanted a checkpoint of at most {MAX_BYTES // 2**30} GiB, got {found.st_size / 2**30:.0f} in {path}: "
            f"save model.state_dict() alone"
        )
    return found.st_size


def _reason(error: Exception) -> str:
    """Say in short why a file could not be read."""
    if isinstance(error, (ValueError, BadZipFile)):
        return shown(error)[:MAX_REASON]
    return type(error).__name__


def _check_tensors(state: Mapping[str, Any], size: int) -> None:
    """Refuse what is no plain tensor, and tensors that are larger than the file: views can repeat its numbers."""
    if len(state) > MAX_TENSORS:
        raise ValueError(f"{len(state)} entries")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"a {type(value).__name__} under {key!r}"[:MAX_REASON])
        if value.is_complex():
            raise ValueError(f"complex numbers under {key!r}"[:MAX_REASON])
    if sum(value.nbytes for value in state.values()) > max(size, MAX_UNPACKED):
        raise ValueError("tensors that claim more bytes than the file has")


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
    if int(facts["vocab_size"]) != VOCABULARY:
        raise ValueError(f"a vocabulary of {facts['vocab_size']}, wanted {VOCABULARY}")
    if rows.ndim != 2 or not 0 < rows.shape[1] <= MAX_WIDTH:
        raise ValueError(f"token rows of shape {tuple(rows.shape)}, wanted rows of at most {MAX_WIDTH} numbers")
    table = seeded_token_rows(int(facts["token_seed"]), VOCABULARY, rows.shape[1])
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
