"""Terms of a loss that are of classes, not of images: each task's own, whatever tasks are learned together.

Axes: R runs trained together, T tasks, K classes of all tasks in task-major order, n of them that are scored: K, or Q
of a batch of some; B images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch

__all__ = ["own_task_mean", "scored_tasks"]


def scored_tasks(problem: Problem, batch: Batch) -> Tensor:
    """Task of each class that a batch scores: Tensor of shape (1, K) or (R, Q), int64; -1 where there is none."""
    tasks, classes = problem.class_tasks, batch.classes
    return tasks[None] if classes is None else tasks[classes.clamp(min=0)].masked_fill(classes < 0, -1)


def own_task_mean(problem: Problem, batch: Batch, values: Tensor) -> Tensor:
    """Mean of numbers (R, n) of classes over each task, then over the images, each counting its own task's.

    Of one task it is the mean over its classes. Of several the loss is the mean of the tasks' own losses weighted by
    their share of the batch, exactly as the cross-entropy is, so that tasks share nothing through it.

    Returns
    -------
    Tensor of shape (R,)
    """
    every = torch.arange(len(problem.tasks), device=values.device)
    members = (scored_tasks(problem, batch)[..., None] == every).to(values.dtype)  # (1 or R, n, T)
    shares = members / members.sum(dim=1, keepdim=True).clamp(min=1)
    means = (values[:, None] @ shares)[:, 0]  # (R, T)
    return means.gather(-1, problem.class_tasks[batch.labels]).mean(dim=-1)
