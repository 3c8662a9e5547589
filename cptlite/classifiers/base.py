"""What every method ends as: scores for every class of every task.

Axes: K classes of all tasks in task-major order, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

__all__ = ["ALL", "Classifier", "exp32"]

ALL = slice(None)


class Classifier(Protocol):
    """Scores for every class of every task."""

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C); comparable within a task only."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """All that ``classifier.npz`` needs to score again."""
        ...


def exp32(log: float) -> float:
    """Exponential as float32 has it, without a tensor that would have to travel to the device."""
    return float(np.exp(np.float32(log)))
