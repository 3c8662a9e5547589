"""Which classes of a fitted classifier the classes of other tasks are: by name, in any order.

Axes: K classes of all fitted tasks in task-major order, C classes of a task, N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cptlite.datasets.text_files import name_key
from cptlite.datasets.types import Task
from cptlite.errors import UsageError

__all__ = ["Place", "find_task", "match_tasks", "same_names"]

SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task's classes are among those of a classifier.

    Attributes
    ----------
    home : int
        Which of the fitted tasks.
    classes : slice
        Range of the fitted task's classes among all K.
    columns : tuple of int, optional
        Of the range, C places in the order of the task; None where they are all of it in its order.
    """

    home: int
    classes: slice
    columns: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Classes of the fitted task."""
        return int(self.classes.stop - self.classes.start)

    def number(self, labels: Tensor) -> Tensor:
        """From classes within the fitted task (N,) to those within this one, -1 where it lacks them."""
        if self.columns is None:
            return labels
        numbers = labels.new_full((self.size,), -1)
        numbers[list(self.columns)] = torch.arange(len(self.columns), device=labels.device)
        return numbers[labels]


def match_tasks(fitted: Sequence[Task], tasks: Sequence[Task]) -> list[Place]:
    """Find the classes of each task among those fitted.

    Parameters
    ----------
    fitted : sequence of Task
        In the order of the classifier's classes.
    tasks : sequence of Task
        Each has the classes of a fitted task or some of them, in any order. That task is the one of the same id if its
        classes do, or else the only one whose classes do, those with all of them first. Capitals, underscores and the
        number of spaces do not tell names apart.

    Returns
    -------
    list of Place
        By task.

    Raises
    ------
    UsageError
        A task has classes that were not fitted, or those of several fitted tasks.
    """
    starts = dict(_starts(fitted))
    places = []
    for task in tasks:
        home, columns = _find_home(fitted, task)
        classes = slice(starts[home.id], starts[home.id] + len(home.class_names))
        in_order = columns == tuple(range(len(home.class_names)))
        places.append(Place(home=fitted.index(home), classes=classes, columns=None if in_order else columns))
    return places


def find_task(fitted: Sequence[Task], word: str) -> Task | None:
    """Return the fitted task that a word names: by its id, or by its name where that is the only one's."""
    by_id = [task for task in fitted if task.id == word]
    by_name = [task for task in fitted if name_key(task.name) == name_key(word)]
    return by_id[0] if by_id else by_name[0] if len(by_name) == 1 else None


def same_names(names: Sequence[str]) -> list[str]:
    """Names of which one before is another spelling."""
    keys = list(map(name_key, names))
    return [name for place, name in enumerate(names) if keys[place] in keys[:place]]


def _starts(fitted: Sequence[Task]) -> Iterator[tuple[str, int]]:
    first = 0
    for task in fitted:
        yield task.id, first
        first += len(task.class_names)


def _find_home(fitted: Sequence[Task], task: Task) -> tuple[Task, tuple[int, ...]]:
    """Find the fitted task that a task's classes are of, and which of its classes they are."""
    found = [(home, columns) for home in fitted if (columns := _columns(home, task)) is not None]
    whole = [(home, columns) for home, columns in found if len(columns) == len(home.class_names)]
    chosen = [each for each in found if each[0].id == task.id] or whole or found
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise UsageError(
            f"wanted the classes of one fitted task in {task.id!r}, got those of several "
            f"({', '.join(home.id for home, _ in chosen)}): give it the id of the one that is meant"
        )
    raise UsageError(f"{_say_what_lacks(fitted, task)}: give a cache with classes that were fitted, in any order")


def _columns(home: Task, task: Task) -> tuple[int, ...] | None:
    """Places of a task's classes among another's; None where one is not there, or a name says several."""
    if task.class_names == home.class_names:
        return tuple(range(len(home.class_names)))
    wanted, there = list(map(name_key, task.class_names)), list(map(name_key, home.class_names))
    if len(set(wanted)) < len(wanted) or any(Counter(there)[key] != 1 for key in wanted):
        return None
    return tuple(map(there.index, wanted))


def _say_what_lacks(fitted: Sequence[Task], task: Task) -> str:
    """Say which classes were not fitted, beside the fitted task that has most of them."""
    wanted = Counter(map(name_key, task.class_names))
    unknown = {home.id: wanted - Counter(map(name_key, home.class_names)) for home in fitted}
    nearest = min(unknown, key=lambda home: unknown[home].total())
    names = [repr(name) for name in task.class_names if name_key(name) in unknown[nearest]]
    if not names:
        return f"wanted classes of one fitted task in {task.id!r}, got names that several classes of {nearest!r} have"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"wanted classes of one fitted task ({', '.join(home.id for home in fitted)}) in {task.id!r}, got some that "
        f"{nearest!r} does not have ({', '.join(names[:SHOWN])}{more})"
    )
