"""Class weights over image features: what most methods end as.

Axes: K classes of all tasks in task-major order, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import TensorClassifier

__all__ = ["LinearClassifier"]


@dataclass(frozen=True, kw_only=True)
class LinearClassifier(TensorClassifier):
    """Class weights over image features.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
    bias : Tensor of shape (K,)
    logit_scale : float
        The *log* of the factor on the products.
    unit_length : bool
        Whether image features are normalised first.
    """

    kind: ClassVar[str] = "linear"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "bias": "K"}
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float, "unit_length": bool}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    weights: Tensor
    bias: Tensor
    logit_scale: float
    unit_length: bool

    @classmethod
    def from_prompts(cls, weights: Tensor, logit_scale: float) -> LinearClassifier:
        """Cosine classifier with unit-length weights of shape (K, D)."""
        weights = weights.detach().float()
        return cls(
            weights=weights,
            bias=weights.new_zeros(len(weights)),
            logit_scale=logit_scale,
            unit_length=True,
        )

    @classmethod
    def join(cls, parts: Sequence[LinearClassifier]) -> LinearClassifier:
        """One classifier of all tasks, from those of each in order, which agree in scale and in normalising."""
        weights, bias = torch.cat([part.weights for part in parts]), torch.cat([part.bias for part in parts])
        return replace(parts[0], weights=weights, bias=bias)

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores (B, C)."""
        images = features.to(self.weights.dtype)
        if self.unit_length:
            images = F.normalize(images, dim=-1)
        return exp32(self.logit_scale) * images @ self.weights[classes].T + self.bias[classes]
