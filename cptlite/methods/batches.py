"""What a step learns from: images with their labels, and the classes that each is scored over.

Axes: R runs trained together, T tasks, K classes of all tasks in task-major order, Q classes that are scored, B images,
b of them, c of the classes, M patches of an image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Batch", "Part", "Scored", "cross_entropy", "take"]

Scored = tuple[Tensor, Tensor]
"""Scores (R, b, c) of some rows of a batch, -inf at classes that do not count, and their labels (R, b) among the c."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of R runs.

    Attributes
    ----------
    images : Tensor of shape (R, B, D)
        Raw features; those of patches (R, B, M, D) for a method that reads these.
    labels : Tensor of shape (R, B), int64
        Class among all K.
    classes : Tensor of shape (R, Q), int64, optional
        Classes that are scored, those in the batch among them; None for all K. -1 fills up and does not count. Where Q
        is K, class k stands at k or is left out.
    task_rows : tuple of int, optional
        Rows of each task, where they stand task by task; a batch of some of the classes has none.
    marks : Tensor of shape (R, B), bool, optional
        What the method noted of each row at the beginning of the epoch; see `PromptMethod.mark_rows`.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor | None = None
    task_rows: tuple[int, ...] | None = None
    marks: Tensor | None = None

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Put runs of equal shapes side by side."""
        first = batches[0]
        assert all(batch.task_rows == first.task_rows for batch in batches)
        classes = [batch.classes for batch in batches if batch.classes is not None]
        marks = [batch.marks for batch in batches if batch.marks is not None]
        return cls(
            images=torch.cat([batch.images for batch in batches]),
            labels=torch.cat([batch.labels for batch in batches]),
            classes=torch.cat(classes) if classes else None,
            task_rows=first.task_rows,
            marks=torch.cat(marks) if marks else None,
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.images, self.labels, *(each for each in (self.classes, self.marks) if each is not None)]

    @property
    def places(self) -> Tensor:
        """Place of each label among the classes that are scored: Tensor of shape (R, B), int64."""
        if self.classes is None:
            return self.labels
        return (self.classes[:, None] == self.labels[..., None]).int().argmax(dim=-1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Put what a function makes of each tensor in its place."""
        return Batch(
            images=function(self.images),
            labels=function(self.labels),
            classes=None if self.classes is None else function(self.classes),
            task_rows=self.task_rows,
            marks=None if self.marks is None else function(self.marks),
        )

    def blank(self) -> Batch:
        """Zeros of the same shapes, but for the labels of rows that stand task by task: 0 is a class of the first."""
        zeros = self.map(torch.zeros_like)
        return zeros if self.task_rows is None else replace(zeros, labels=self.labels.clone())

    def parts(self, class_tasks: Tensor, class_ranges: Sequence[tuple[int, int]]) -> list[Part]:
        """Take the batch apart: task by task where its rows stand so, else all of it, other tasks masked.

        Parameters
        ----------
        class_tasks : Tensor of shape (K,), int64
        class_ranges : sequence of (int, int)
            First class of each task, and the one after its last.
        """
        if self.task_rows is None:
            return [self._whole(class_tasks)]
        assert self.classes is None or self.classes.shape[1] == len(class_tasks)
        parts, row = [], 0
        for rows, (start, stop) in zip(self.task_rows, class_ranges, strict=True):
            if rows:
                mask = None if self.classes is None else self.classes[:, None, start:stop] < 0  # (R, 1, c)
                labels = self.labels[:, row : row + rows] - start
                parts.append(Part(rows=slice(row, row + rows), classes=slice(start, stop), labels=labels, mask=mask))
            row += rows
        return parts

    def _whole(self, class_tasks: Tensor) -> Part:
        own = class_tasks[self.labels][..., None]  # (R, B, 1)
        if self.classes is None:
            return Part(rows=slice(None), classes=slice(None), labels=self.labels, mask=own != class_tasks)
        tasks = class_tasks[self.classes.clamp(min=0)].masked_fill(self.classes < 0, -1)  # (R, Q)
        return Part(rows=slice(None), classes=slice(None), labels=self.places, mask=own != tasks[:, None])


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a batch, and the range of its classes that they are scored over.

    Attributes
    ----------
    rows, classes : slice
        Of the B and of the K, or Q.
    labels : Tensor of shape (R, b), int64
        Place of each row's class in the range.
    mask : Tensor of shape (R, b or 1, c), bool, optional
        Classes of the range that do not count; None where all do.
    """

    rows: slice
    classes: slice
    labels: Tensor
    mask: Tensor | None

    def scored(self, scores: Tensor) -> Scored:
        """Mask scores (R, b, c) of this part; its labels beside them."""
        return scores if self.mask is None else scores.masked_fill(self.mask, float("-inf")), self.labels

    def cut(self, scores: Tensor) -> Scored:
        """Take this part from scores (R, B, Q) of the whole batch."""
        return self.scored(scores[:, self.rows, self.classes])


def cross_entropy(parts: Sequence[Scored]) -> Tensor:
    """Mean over all rows of each run: Tensor of shape (R,)."""
    each = [
        F.cross_entropy(scores.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)  # (R, b)
        for scores, labels in parts
    ]
    return (each[0] if len(each) == 1 else torch.cat(each, dim=-1)).mean(dim=-1)


def take(values: Tensor, picks: Tensor) -> Tensor:
    """Take each run's picks (R, Q) from its values (R, K, ...): Tensor of shape (R, Q, ...).

    A pick of -1 takes the first value. The gradient is added up in order: equal seeds give equal bytes.
    """
    shifts = torch.arange(len(picks), device=picks.device)[:, None] * values.shape[1]  # (R, 1)
    places = (picks.clamp(min=0) + shifts).flatten()  # (R * Q,)
    return values.flatten(0, 1).index_select(0, places).unflatten(0, picks.shape)
