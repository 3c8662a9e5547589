"""What a run learns from, of all that it is scored on: the first classes of each task, none of one that is held out.

Axes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cptlite.config import RunConfig
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.splits import base_classes

__all__ = ["EACH", "leave_one_out", "seen_sizes", "seen_tasks"]

EACH = "all"  # of the tasks held out, one in each run


def seen_sizes(config: RunConfig, tasks: Sequence[Task]) -> tuple[int, ...]:
    """Count the classes of each of T tasks that a run learns from, the first ones by label; 0 of a task held out.

    Raises
    ------
    UsageError
        A task to hold out is not there, or no other is left to learn from.
    """
    held_out, ids = set(config.held_out_tasks), [task.id for task in tasks]
    unknown = held_out - set(ids)
    if unknown == {EACH}:
        raise UsageError(
            f"--held-out-task {EACH} means a run for each task, got it for one: give one of {', '.join(ids)}"
        )
    if unknown:
        raise UsageError(f"unknown task {min(unknown)!r} to hold out: give one of {', '.join(ids)}")
    if config.entry.needs_rows and held_out.issuperset(ids):
        raise UsageError(
            f"wanted tasks to learn from, got all of them held out ({', '.join(ids)}): hold out fewer, or give further "
            f"datasets with --dataset"
        )
    sizes = [len(task.class_names) for task in tasks]
    if config.classes == "base":
        sizes = [base_classes(size) for size in sizes]
    return tuple(0 if task.id in held_out else size for task, size in zip(tasks, sizes, strict=True))


def seen_tasks(tasks: Sequence[Task], sizes: Sequence[int]) -> tuple[Task, ...]:
    """Tasks as they are learned: with their first classes alone, and without those that have none."""
    return tuple(
        replace(task, class_names=task.class_names[:size]) for task, size in zip(tasks, sizes, strict=True) if size
    )


def leave_one_out(config: RunConfig, tasks: Sequence[Task]) -> list[RunConfig]:
    """Return configurations that hold out each task in turn, where one asks for that; else the one."""
    if config.held_out_tasks != (EACH,):
        return [config]
    return [replace(config, held_out_tasks=(task.id,)) for task in tasks]
