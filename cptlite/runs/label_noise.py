"""Training labels that are made wrong on purpose, to see what a method makes of them.

Axes: N rows, n of a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from cptlite.datasets.types import Task
from cptlite.methods.base import FewShotRows

__all__ = ["flip_labels"]


def flip_labels(rows: FewShotRows, tasks: Sequence[Task], *, share: float, seed: int) -> FewShotRows:
    """Give a share of each task's rows the label of another class of the task, each of these as likely.

    Parameters
    ----------
    rows : FewShotRows
        Their classes are numbered over all tasks.
    tasks : sequence of Task
        As they are learned from; the rows of one of a single class stay as they are.
    share : float
        From 0 to 1; exactly ``round(share * n)`` rows of a task change.
    seed : int
        With a task's id it says which rows, and what they become, whatever other tasks there are.

    Returns
    -------
    FewShotRows
        With the features of those given.
    """
    labels, start = rows.labels.cpu().clone(), 0
    for task in tasks:
        size = len(task.class_names)
        here = torch.nonzero((start <= labels) & (labels < start + size))[:, 0]  # (n,)
        if size > 1:
            digest = hashlib.sha256(f"label noise {seed} {task.id}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            changed = here[torch.randperm(len(here), generator=generator)[: round(share * len(here))]]
            steps = torch.randint(1, size, (len(changed),), generator=generator)
            labels[changed] = start + (labels[changed] - start + steps) % size
        start += size
    return replace(rows, labels=labels.to(rows.labels.device))
