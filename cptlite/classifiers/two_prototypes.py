"""Distances to an image prototype and a text prototype of each class, as probabilities that are mixed: Proto-CLIP.

Jaykumar P et al., "Proto-CLIP: Vision-Language Prototypical Network for Few-Shot Learning" (IROS 2024).

Axes: K classes of one task, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL
from cptlite.classifiers.state import TensorClassifier

__all__ = ["TwoPrototypeClassifier", "mixed"]


@dataclass(frozen=True, kw_only=True)
class TwoPrototypeClassifier(TensorClassifier):
    """Log of the mixed probabilities of one task's classes.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit-length text prototypes.
    prototypes : Tensor of shape (K, D)
        Unit-length image prototypes; zeros for a class without images.
    alpha, beta : float
        Share of the image prototypes, in [0, 1], and sharpness.
    """

    kind: ClassVar[str] = "two-prototypes"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "prototypes": "K D"}
    value_types: ClassVar[Mapping[str, type]] = {"alpha": float, "beta": float}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    weights: Tensor
    prototypes: Tensor
    alpha: float
    beta: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        images = F.normalize(features.to(self.weights.dtype), dim=-1)
        return mixed(images, self.prototypes, self.weights, images.new_tensor(self.alpha), self.beta)[:, classes]


def mixed(x: Tensor, prototypes: Tensor, text: Tensor, alpha: Tensor, beta: float) -> Tensor:
    """Log of alpha softmax(-beta |x - m|^2) + (1 - alpha) softmax(-beta |x - t|^2) over the classes.

    Parameters
    ----------
    x : Tensor of shape (B, D)
        Unit length.
    prototypes, text : Tensor of shape (K, D)
        m and t, of unit length; a row of zeros in m is a class without images, whose first share is 0.
    alpha : Tensor of shape (...)
        Several are worked out side by side.
    beta : float

    Returns
    -------
    Tensor of shape (..., B, K)
    """
    absent = ~prototypes.any(dim=-1)  # (K,)
    # |x - m|^2 = 2 - 2 x . m, of which the softmax leaves the second.
    by_image = (2 * beta * x @ prototypes.T).masked_fill(absent, -torch.inf).log_softmax(dim=-1)  # (B, K)
    by_text = (2 * beta * x @ text.T).log_softmax(dim=-1)
    alpha = alpha[..., None, None]  # (..., 1, 1)
    return torch.logaddexp(alpha.log() + by_image, (1 - alpha).log() + by_text)
