"""One classifier of all tasks, made of one a task.

Axes: C classes of a range, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cptlite.classifiers.base import ALL, Classifier
from cptlite.classifiers.linear import LinearClassifier
from cptlite.classifiers.two_headed import TwoHeadedClassifier

__all__ = ["JoinedClassifier", "join_classifiers"]


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

    kind: ClassVar[str] = "joined"

    parts: tuple[Classifier, ...]
    sizes: tuple[int, ...]

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        return torch.cat([part.scores(features, own) for part, own in self._parts_in(classes)], dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of every part, under ``<index of the task>/<name>``."""
        return {
            f"{index}/{name}": tensor
            for index, part in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }

    def values(self) -> dict[str, Any]:
        """``parts``: kind, number of classes and values of each."""
        parts = zip(self.parts, self.sizes, strict=True)
        return {"parts": [{"kind": part.kind, "num_classes": int(size), **part.values()} for part, size in parts]}

    def _parts_in(self, classes: slice) -> Iterator[tuple[Classifier, slice]]:
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
        A linear or two-headed one where all are.
    """
    linear = [part for part in parts if isinstance(part, LinearClassifier)]
    if len(linear) == len(parts):
        return LinearClassifier.join(linear)
    two_headed = [part for part in parts if isinstance(part, TwoHeadedClassifier)]
    if len(two_headed) == len(parts):
        return TwoHeadedClassifier.join(two_headed)
    return JoinedClassifier(parts=tuple(parts), sizes=tuple(sizes))
