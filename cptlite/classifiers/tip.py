"""Zero-shot scores plus votes of the training rows: what Tip-Adapter ends as.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification" (ECCV 2022).

Axes: K classes of all tasks in task-major order, C of a range, B images, N training rows, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL
from cptlite.classifiers.state import TensorClassifier

__all__ = ["TipClassifier", "votes"]


@dataclass(frozen=True, kw_only=True)
class TipClassifier(TensorClassifier):
    """Zero-shot scores blended with votes.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit-length zero-shot weights.
    logit_scale : float
        The *log* of the factor on the cosines.
    keys : Tensor of shape (N, D)
        Unit length unless trained.
    key_labels : Tensor of shape (N,), int64
        Class of each key among all K.
    alpha, beta : Tensor of shape (K,)
        Weight and sharpness of the votes, those of each class's task.
    """

    kind: ClassVar[str] = "tip"
    axes: ClassVar[Mapping[str, str]] = {
        "weights": "K D",
        "keys": "N D",
        "key_labels": "N",
        "alpha": "K",
        "beta": "K",
    }
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float}
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    indices: ClassVar[Mapping[str, str]] = {"key_labels": "K"}

    weights: Tensor
    logit_scale: float
    keys: Tensor
    key_labels: Tensor
    alpha: Tensor
    beta: Tensor

    @classmethod
    def join(cls, parts: Sequence[TipClassifier]) -> TipClassifier:
        """One classifier of all tasks, from those of each in order."""
        starts = accumulate((len(part.weights) for part in parts), initial=0)
        shifted = [replace(p, key_labels=p.key_labels + start) for p, start in zip(parts, starts, strict=False)]
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in shifted]) for name in cls.axes}
        return replace(parts[0], **joined)

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        start, stop, _ = classes.indices(len(self.weights))
        own = torch.nonzero((start <= self.key_labels) & (self.key_labels < stop))[:, 0]
        labels = self.key_labels[own]
        images = F.normalize(features.to(self.weights.dtype), dim=-1)
        text = torch.tensor(float(self.logit_scale)).exp().to(images) * images @ self.weights[classes].T  # (B, C)
        blend = self.alpha[classes] * votes(images @ self.keys[own].T, labels - start, self.beta[labels], stop - start)
        return text + blend  # (B, C)


def votes(
    affinity: Tensor,
    key_labels: Tensor,
    beta: Tensor | float,
    num_classes: int,
    key_weights: Tensor | None = None,
) -> Tensor:
    """Sum of weight * exp(-beta (1 - affinity)) by class, (B, N) to (B, C); weights (..., 1, N) make it (..., B, C)."""
    each = (beta * (affinity - 1)).exp()  # (B, N)
    if key_weights is not None:
        each = each * key_weights  # (..., B, N)
    return each.new_zeros(*each.shape[:-1], num_classes).index_add(-1, key_labels, each)  # (..., B, C)
