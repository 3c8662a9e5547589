"""Zero-shot scores, votes of the training rows, and how far these are in what the class texts say: what TIP-X ends as.

Udandarao et al., "SuS-X: Training-Free Name-Only Transfer of Vision-Language Models" (ICCV 2023).

Axes: K classes of one task, C of a range, B images, N training rows, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import Misfit, TensorClassifier
from cptlite.classifiers.tip import votes

__all__ = ["TipXClassifier", "class_logs", "divergence_votes", "divergences"]


@dataclass(frozen=True, kw_only=True)
class TipXClassifier(TensorClassifier):
    """Zero-shot scores plus alpha times votes, less gamma times rescaled divergences.

    Attributes
    ----------
    weights : Tensor of shape (K, D)
        Unit-length zero-shot weights.
    keys : Tensor of shape (N, D)
        Unit length.
    key_labels : Tensor of shape (N,), int64
    logit_scale : float
        The *log* of the factor on the cosines.
    temperature : float
        Of the distributions over the classes.
    alpha, beta : float
        Weight and sharpness of the votes.
    gamma : float
        Weight of the divergences.
    slope, offset : float
        A divergence d counts as slope * d + offset.
    """

    kind: ClassVar[str] = "tip-x"
    axes: ClassVar[Mapping[str, str]] = {"weights": "K D", "keys": "N D", "key_labels": "N"}
    value_types: ClassVar[Mapping[str, type]] = {
        name: float for name in ("logit_scale", "temperature", "alpha", "beta", "gamma", "slope", "offset")
    }
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    indices: ClassVar[Mapping[str, str]] = {"key_labels": "K"}

    weights: Tensor
    keys: Tensor
    key_labels: Tensor
    logit_scale: float
    temperature: float
    alpha: float
    beta: float
    gamma: float
    slope: float
    offset: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        images, num_classes = F.normalize(features.to(self.weights.dtype), dim=-1), len(self.weights)
        text = exp32(self.logit_scale) * images @ self.weights.T  # (B, K)
        near = votes(images @ self.keys.T, self.key_labels, self.beta, num_classes)  # (B, K)
        logs, key_logs = (class_logs(each, self.weights, self.temperature) for each in (images, self.keys))
        apart = divergence_votes(logs, key_logs, self.key_labels, self.slope, self.offset)  # (B, K)
        return (text + self.alpha * near + self.gamma * apart)[:, classes]

    @classmethod
    def check_state(
        cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any], num_classes: int, embed_dim: int
    ) -> None:
        """Raise `Misfit` where tensors and values are not such as make up a classifier of K classes."""
        super().check_state(tensors, values, num_classes, embed_dim)
        if values["temperature"] <= 0:
            raise Misfit(f"'temperature' {values['temperature']} where a number above 0 belongs")


def class_logs(units: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Log of K times the softmax over the classes of cosine / temperature, (B, D) to (B, K).

    The factor K cancels in a divergence, and the logs of distributions that are nearly uniform stay small.
    """
    return (units @ weights.T / temperature).log_softmax(dim=-1) + math.log(len(weights))


def divergences(logs: Tensor, key_logs: Tensor) -> Tensor:
    """Kullback-Leibler divergences of images' distributions from those of keys, (B, K) and (N, K) to (B, N)."""
    p = logs.softmax(dim=-1)
    return (p * logs).sum(dim=-1, keepdim=True) - p @ key_logs.T


def divergence_votes(logs: Tensor, key_logs: Tensor, key_labels: Tensor, slope: float, offset: float) -> Tensor:
    """Less the sum by class of slope * divergence + offset, (B, K).

    A divergence is linear in the key's logs, so that those of a class are added up first: no (B, N) is made.
    """
    p = logs.softmax(dim=-1)
    totals = key_logs.new_zeros(logs.shape[-1], logs.shape[-1]).index_add(0, key_labels, key_logs)  # (K, K)
    counts = torch.bincount(key_labels, minlength=logs.shape[-1]).to(logs)  # (K,)
    apart = (p * logs).sum(dim=-1, keepdim=True) * counts - p @ totals.T  # (B, K)
    return -(slope * apart + offset * counts)
