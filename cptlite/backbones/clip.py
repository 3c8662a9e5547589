"""What is taken from the ``clip`` package: the one file that knows it.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021), in the package
clip-anytorch, whose model code is used as is.
"""

from __future__ import annotations

import warnings
from pathlib import Path

with warnings.catch_warnings():  # clip imports pkg_resources, deprecated in setuptools
    warnings.simplefilter("ignore")
    from clip import clip
    from clip.model import (
        CLIP,
        AttentionPool2d,
        ResidualAttentionBlock,
        Transformer,
        VisionTransformer,
        build_model,
    )
    from clip.simple_tokenizer import SimpleTokenizer

__all__ = [
    "CLIP",
    "AttentionPool2d",
    "ResidualAttentionBlock",
    "SimpleTokenizer",
    "Transformer",
    "VisionTransformer",
    "build_model",
    "checkpoint_url",
    "download",
]


def checkpoint_url(name: str) -> str:
    """Address of an OpenAI checkpoint, by its name."""
    return clip._MODELS[name]


def download(name: str, folder: Path) -> Path:
    """Fetch an OpenAI checkpoint into a folder, where it is not there yet."""
    return Path(clip._download(checkpoint_url(name), str(folder)))
