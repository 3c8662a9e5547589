"""What training ends as: scores for every class of every task.

Axes: K classes of all tasks in task-major order, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ALL", "Classifier", "JoinedClassifier", "LinearClassifier", "exp32", "join_classifiers"]

ALL = slice(None)


class Classifier(Protocol):
    """Scores for every class of every task."""

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C); comparable within a task only."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """All that ``classifier.npz`` needs to score again."""
        ...


@dataclass(frozen=True, kw_only=True)
class LinearClassifier:
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

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the attributes under their names."""
        return {
            "weights": self.weights.cpu().numpy(),
            "bias": self.bias.cpu().numpy(),
            "logit_scale": np.array(self.logit_scale, np.float32),
            "unit_length": np.array(self.unit_length),
        }


@dataclass(frozen=True, kw_only=True)
class JoinedClassifier:
    """Asks each task's own classifier about that task's classes.

    Attributes
    ----------
    parts : tuple of Classifier
        In task order.
    sizes : tuple of int
        Classes of each.
    """

    parts: tuple[Classifier, ...]
    sizes: tuple[int, ...]

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        return torch.cat([part.scores(features, own) for part, own in self._asked(classes)], dim=-1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of every part, under ``<index of the task>/<name>``."""
        return {
            f"{index}/{name}": array for index, part in enumerate(self.parts) for name, array in part.arrays().items()
        }

    def _asked(self, classes: slice) -> Iterator[tuple[Classifier, slice]]:
        """Parts with classes in a range, each with the range among its own."""
        start, stop, _ = classes.indices(sum(self.sizes))
        first = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            own = slice(max(start - first, 0), min(stop - first, size))
            if own.start < own.stop:
                yield part, own
            first += size


def join_classifiers(parts: Sequence[Classifier], sizes: Sequence[int]) -> Classifier:
    """One classifier of all tasks.

    Parameters
    ----------
    parts : sequence of Classifier
        Of one task each, in task order, all by one method.
    sizes : sequence of int
        Classes of each.

    Returns
    -------
    Classifier
        A linear one where all are.
    """
    linear = [part for part in parts if isinstance(part, LinearClassifier)]
    if len(linear) == len(parts):
        return LinearClassifier.join(linear)
    return JoinedClassifier(parts=tuple(parts), sizes=tuple(sizes))


def exp32(log: float) -> float:
    """Exponential as float32 has it, without a tensor that would have to travel to the device."""
    return float(np.exp(np.float32(log)))
