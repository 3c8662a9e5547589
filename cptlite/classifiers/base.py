"""What every method ends as: scores for every class of every task.

Axes: K classes of all tasks in task-major order, C of a range, B images, D joint dimension.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

__all__ = ["ALL", "Classifier", "exp32"]

ALL = slice(None)


class Classifier(Protocol):
    """Scores for every class of every task.

    Attributes
    ----------
    kind : str
        Tag that a stored classifier carries.
    """

    kind: ClassVar[str]

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C); comparable within a task only."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors it is made of, by name."""
        ...

    def values(self) -> dict[str, Any]:
        """Return the plain values it is made of, by name: with the tensors, all that `store` needs."""
        ...


def exp32(log: float) -> float:
    """Exponential as float32 has it, without a tensor that would have to travel to the device."""
    return float(np.exp(np.float32(log)))
