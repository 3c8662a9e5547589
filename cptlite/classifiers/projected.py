"""Cosines with class weights after a learned linear map of the image features: what RLA and ProLIP end as.

Axes: K classes, C of a range, B images, I input of the tower's projection, D joint dimension.
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

__all__ = ["PreProjectedClassifier", "ProjectedClassifier"]


@dataclass(frozen=True, kw_only=True)
class ProjectedClassifier(TensorClassifier):
    """Scaled cosines of mapped features with class weights.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit length.
    matrix : Tensor of shape (D, D)
        From image features, as rows, to what is compared with the weights.
    logit_scale : float
        The *log* of the factor on the cosines.
    """

    kind: ClassVar[str] = "projected"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "matrix": "D D"}
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    weights: Tensor
    matrix: Tensor
    logit_scale: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        # At unit length first, or the squares of a long feature would overflow where the map makes it longer.
        images = F.normalize(features.to(self.weights.dtype), dim=-1) @ self.matrix
        return exp32(self.logit_scale) * F.normalize(images, dim=-1) @ self.weights[classes].T


@dataclass(frozen=True, kw_only=True)
class PreProjectedClassifier(TensorClassifier):
    """Scaled cosines of features that are projected here, not in the image tower, with class weights.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit length.
    matrix, bias : Tensor of shape (I, D) and (D,)
        The projection of features, as rows.
    logit_scale : float
        The *log* of the factor on the cosines.
    """

    kind: ClassVar[str] = "pre-projected"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "matrix": "I D", "bias": "D"}
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    weights: Tensor
    matrix: Tensor
    bias: Tensor
    logit_scale: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features before the projection, (B, I), to scores of a range of classes, (B, C)."""
        images = F.normalize(features.to(self.weights.dtype) @ self.matrix + self.bias, dim=-1)
        return exp32(self.logit_scale) * images @ self.weights[classes].T
