"""Class subsampling: which classes a step's loss is over, drawn by the run's generator.

Ding et al., "Multi-task prompt tuning with soft context sharing for vision-language models" (Neurocomputing
603:128290, 2024).

Axes: T tasks, K classes of all tasks in task-major order, Q of them that a batch scores at most, B images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["ClassSampler"]


class ClassSampler:
    """Draws, of each task, the classes in a batch and exactly ``ceil(fraction * others)`` of its others.

    Parameters
    ----------
    task_sizes : sequence of int
        Classes of each task.
    fraction : float
        Above 0 and at most 1; taken as it is written, so that 0.1 of 70 is 7.
    batch_size : int
        B.
    device : torch.device
        Of the labels.

    Attributes
    ----------
    task_sizes : tuple of int
    width : int
        Q: no batch has more classes to score, and where it is K, every class has its place.
    """

    def __init__(self, task_sizes: Sequence[int], fraction: float, batch_size: int, device: torch.device) -> None:
        rate, sizes = Fraction(repr(float(fraction))), torch.tensor(task_sizes)
        kept = [
            [present + math.ceil(rate * max(0, size - present)) for present in range(max(task_sizes) + 1)]
            for size in task_sizes
        ]
        self.task_sizes, self.num_classes = tuple(task_sizes), sum(task_sizes)
        self.width = min(self.num_classes, batch_size + sum(counts[0] for counts in kept))
        self._kept = torch.tensor(kept).to(device)  # (T, most classes + 1), by how many of a task are in the batch
        self._tasks = torch.arange(len(sizes)).repeat_interleave(sizes).to(device)  # (K,)
        self._places = torch.arange(self.num_classes, device=device)
        self._firsts = (sizes.cumsum(0) - sizes).to(device)  # (T,)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the classes for a batch, without waiting for the device.

        Parameters
        ----------
        labels : Tensor of shape (B,), int64
        generator : torch.Generator
            Of the CPU.

        Returns
        -------
        Tensor of shape (Q,), int64
            Ascending, -1 behind them; where Q is K, class k at k, or -1.
        """
        drawn = torch.rand(self.num_classes, generator=generator, dtype=torch.float64)
        present = torch.zeros_like(self._tasks).index_fill(0, labels, 1)  # (K,)
        in_batch = torch.zeros_like(self._firsts).index_add(0, self._tasks, present)  # (T,)
        # Task by task, those in the batch come first, the others in the order drawn.
        keys = drawn.to(labels.device, non_blocking=True).masked_fill(present > 0, -1)
        order = (keys + 2 * self._tasks).argsort(stable=True)  # (K,)
        ranks = torch.empty_like(order).index_copy(0, order, self._places) - self._firsts[self._tasks]
        kept = ranks < self._kept.gather(1, in_batch[:, None])[self._tasks, 0]  # (K,)
        if self.width == self.num_classes:
            return torch.where(kept, self._places, -1)
        first = torch.where(kept, self._places, self.num_classes).sort().values[: self.width]  # (Q,)
        return torch.where(first < self.num_classes, first, -1)
