"""Cosines with class weights, blended with a linear layer on raw image features: what DePT ends as.

Zhang et al., "DePT: Decoupled Prompt Tuning" (CVPR 2024).

Axes: K classes of all tasks in task-major order, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import TensorClassifier

__all__ = ["TwoHeadedClassifier"]


@dataclass(frozen=True, kw_only=True)
class TwoHeadedClassifier(TensorClassifier):
    """(1 - share) * exp(logit_scale) * unit features @ weights.T + share * (raw features @ linear_weights.T + bias).

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit length.
    linear_weights : Tensor of shape (K, D)
        Of the layer on raw features.
    bias : Tensor of shape (K,)
        Of that layer.
    logit_scale : float
        The *log* of the factor on the cosines.
    linear_share : float
    """

    kind: ClassVar[str] = "two-headed"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "linear_weights": "K D", "bias": "K"}
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float, "linear_share": float}

    weights: Tensor
    linear_weights: Tensor
    bias: Tensor
    logit_scale: float
    linear_share: float

    @classmethod
    def join(cls, parts: Sequence[TwoHeadedClassifier]) -> TwoHeadedClassifier:
        """One classifier of all tasks, from those of each in order, which agree in scale and share."""
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in cls.axes}
        return replace(parts[0], **joined)

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores (B, C)."""
        images = features.float()
        cosines = exp32(self.logit_scale) * F.normalize(images, dim=-1) @ self.weights[classes].T
        linear = images @ self.linear_weights[classes].T + self.bias[classes]
        return (1 - self.linear_share) * cosines + self.linear_share * linear
