"""The rows of one task at a time, for methods that fit every task on its own.

Axes: T tasks, K classes of all tasks, C classes of one task, N rows, V views, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows, Problem

__all__ = ["TaskRows", "accuracy_of", "split_tasks"]


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """One task's training and validation rows.

    Attributes
    ----------
    id : str
    classes : slice
        Of the task among all K.
    x : Tensor of shape (N, V, D)
        Unit-length training features, float32.
    y : Tensor of shape (N,), int64
        Class within the task.
    x_val, y_val : Tensor of shape (M, D) and (M,)
        View 0 of the validation rows.
    """

    id: str
    classes: slice
    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor

    @property
    def num_classes(self) -> int:
        """Classes of the task, C."""
        return int(self.classes.stop - self.classes.start)

    def all_views(self) -> tuple[Tensor, Tensor]:
        """Every view as a row of its own: features (N * V, D), unit length, and classes (N * V,)."""
        return self.x.flatten(0, 1), self.y.repeat_interleave(self.x.shape[1])


def split_tasks(problem: Problem, train: FewShotRows, val: FewShotRows, method: str) -> Iterator[TaskRows]:
    """Rows of each task, in order.

    Raises
    ------
    DataError
        A task has no validation rows, on which ``method`` chooses.
    """
    stops = [*problem.offsets[1:], len(problem.class_names)]
    for task, start, stop in zip(problem.tasks, problem.offsets, stops, strict=True):
        here, here_val = (torch.nonzero((start <= rows.labels) & (rows.labels < stop))[:, 0] for rows in (train, val))
        if not len(here_val):
            raise DataError(
                f"{method} chooses on validation rows, and task {task.id!r} has none cached: "
                f"give the dataset a val split, or use --method prototype"
            )
        yield TaskRows(
            id=task.id,
            classes=slice(start, stop),
            x=F.normalize(train.features[here].float(), dim=-1),
            y=train.labels[here] - start,
            x_val=F.normalize(val.features[here_val, 0].float(), dim=-1),
            y_val=val.labels[here_val] - start,
        )


def accuracy_of(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose own class scores highest, from (N, C) and (N,), in [0, 1]."""
    return (scores.argmax(dim=-1) == labels).float().mean().item()
