"""What a training learned, in ``prompts.safetensors``: with it the training is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.files import read_file, sha256_of, write_whole
from cptlite.runs.files import PROMPTS
from cptlite.training.checkpoint import read_log

__all__ = ["load_prompts", "naming_lost_prompts", "read_prompts", "unpack_prompts", "write_prompts"]

NO_DIGEST = "0" * 64  # stands for the digest of a file while that is computed


def write_prompts(folder: Path, learnables: Mapping[str, Tensor]) -> None:
    """Write ``prompts.safetensors``: what was learned, by name, and in the metadata a digest of the file.

    The digest is that of the file with zeros in its place.
    """
    from safetensors.torch import save

    values = {name: value.detach().cpu().contiguous().clone() for name, value in learnables.items()}
    content = save(values, metadata={"sha256": NO_DIGEST})
    write_whole(folder / PROMPTS, content.replace(NO_DIGEST.encode(), sha256_of(content).encode(), 1))


def read_prompts(folder: Path | None, learnables: Mapping[str, Tensor]) -> float | None:
    """Read what an earlier attempt learned into learnables, if its training is done.

    Returns
    -------
    float or None
        Seconds that the training took, as logged; None where there is no folder or no ``prompts.safetensors``.

    Raises
    ------
    DataError
        A file of that attempt is damaged, or not of these learnables.
    """
    if folder is None or not (folder / PROMPTS).exists():
        return None
    try:
        stored = load_prompts(folder)
        with torch.no_grad():
            for name, value in learnables.items():
                value.copy_(stored[name].view_as(value))
        return float(read_log(folder)[-1]["seconds"])
    except DataError:
        raise
    except Exception as error:  # the reader raises a class of its own on a damaged file
        raise DataError(
            f"wanted the prompts that an earlier attempt learned in {folder}, got files that cannot be read "
            f"({type(error).__name__}): give --force to train anew, or another --out"
        ) from None


def load_prompts(folder: Path) -> dict[str, Tensor]:
    """Tensors of ``prompts.safetensors``, by name; any error says that it is damaged."""
    return unpack_prompts(read_file(folder / PROMPTS))


def unpack_prompts(content: bytes) -> dict[str, Tensor]:
    """Tensors of the content of such a file; any error says that it is damaged."""
    from safetensors.torch import load

    return load(_undamaged(content))


@contextmanager
def naming_lost_prompts(folder: Path) -> Iterator[None]:
    """Turn any error of reading what a finished run learned into one that says what to do."""
    try:
        yield
    except Exception as error:  # the reader raises a class of its own on a damaged file
        raise DataError(
            f"wanted what the run learned in {shown(folder / PROMPTS)}, got none or a damaged file "
            f"({type(error).__name__}): train it anew with --force"
        ) from None


def _undamaged(content: bytes) -> bytes:
    """Give back a file of prompts whose digest, where it has one, is its own."""
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__")
    if metadata is not None:
        digest = metadata.pop("sha256")
        rest = content.replace(digest.encode(), NO_DIGEST.encode(), 1)
        if metadata or not re.fullmatch("[0-9a-f]{64}", digest) or sha256_of(rest) != digest:
            raise ValueError("damaged")
    return content
