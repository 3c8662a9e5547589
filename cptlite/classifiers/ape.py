"""Zero-shot scores plus weighted votes of the training rows in some channels of the features: what APE ends as.

Zhu et al., "Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement" (ICCV 2023).

Axes: K classes of one task, C of a range, B images, N training rows, Q channels, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import TensorClassifier
from cptlite.classifiers.tip import votes

__all__ = ["APEClassifier"]


@dataclass(frozen=True, kw_only=True)
class APEClassifier(TensorClassifier):
    """Zero-shot scores blended with weighted votes.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit length unless trained.
    keys : Tensor of shape (N, Q)
        Unit length unless trained.
    key_labels : Tensor of shape (N,), int64
    key_weights : Tensor of shape (N,)
        What each key's vote counts.
    channels : Tensor of shape (Q,), int64
        Of the image features, those that are compared with keys, at unit length.
    logit_scale : float
        The *log* of the factor on the cosines.
    alpha, beta : float
        Weight and sharpness of the votes.
    """

    kind: ClassVar[str] = "ape"
    axes: ClassVar[Mapping[str, str]] = {
        "weights": "K D",
        "keys": "N Q",
        "key_labels": "N",
        "key_weights": "N",
        "channels": "Q",
    }
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float, "alpha": float, "beta": float}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    indices: ClassVar[Mapping[str, str]] = {"key_labels": "K", "channels": "D"}

    weights: Tensor
    keys: Tensor
    key_labels: Tensor
    key_weights: Tensor
    channels: Tensor
    logit_scale: float
    alpha: float
    beta: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        images = F.normalize(features.to(self.weights.dtype), dim=-1)
        text = exp32(self.logit_scale) * images @ self.weights.T  # (B, K)
        affinity = F.normalize(images[:, self.channels], dim=-1) @ self.keys.T  # (B, N)
        near = votes(affinity, self.key_labels, self.beta, len(self.weights), self.key_weights)  # (B, K)
        return (text + self.alpha * near)[:, classes]
