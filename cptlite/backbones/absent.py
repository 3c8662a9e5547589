"""What stands where a model would, of features that were made elsewhere: neither images nor prompts can be encoded.

Axes: W text width, D joint dimension.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import nn

from cptlite.errors import DataError

__all__ = ["NoTowers"]

TOWERS = ("visual", "encode_image", "encode_text")


class NoTowers(nn.Module):
    """A model without towers; whatever asks for a part of one is told so.

    Attributes
    ----------
    name : str
        ``features:ENCODER:DIMENSION``; equal names stand for the same encoder.
    text_projection : Tensor of shape (0, D)
    logit_scale : float
        The *log* of the factor on the cosines: where OpenAI's checkpoints end, all of them.
    """

    text_projection: torch.Tensor

    def __init__(self, name: str, dimension: int) -> None:
        super().__init__()
        self.name = name
        self.logit_scale = math.log(100)
        self.register_buffer("text_projection", torch.empty(0, dimension))
        self.register_buffer("positional_embedding", torch.empty(0, 0))
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(0, 0))
        self.transformer, self.ln_final = nn.Identity(), nn.Identity()

    @property
    def sha256(self) -> str:
        """Hex digest that stands for that of the weights."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        if name not in TOWERS:
            return super().__getattr__(name)
        raise DataError(
            f"wanted a model to encode with, got {self.name!r}, of which features alone are here: import them anew "
            f"with --backbone NAME if they are those of a CLIP"
        )
