"""How far many runs are, in whichever process they are carried out.

Steps are counted in a small file that processes map into memory: to count one costs no more than to write a number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

__all__ = ["GroupCounter", "OnProgress", "Progress", "counting"]

LOOK_SECONDS = 0.5  # between looks at what the processes count
STEPS, FINISHED = 0, 1  # columns of the file


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far many runs are.

    Attributes
    ----------
    runs_done, runs : int
        Those that are filed, and all.
    steps_done, steps : int
        Of all runs; a fit of a method that takes no steps counts as one.
    """

    runs_done: int
    runs: int
    steps_done: int
    steps: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class GroupCounter:
    """Where a group of runs counts its steps; goes to other processes of this machine."""

    path: Path
    group: int
    groups: int

    def open(self) -> np.ndarray:
        """Return the group's two numbers, as every process sees them."""
        table = np.memmap(self.path, np.int64, "r+", shape=(self.groups, 2))
        return table[self.group]


@contextmanager
def counting(
    steps: Sequence[Sequence[int]], fitted: Sequence[bool], on_progress: OnProgress
) -> Iterator[list[GroupCounter]]:
    """Tell, twice a second and at the end, how far groups of runs are.

    Parameters
    ----------
    steps : sequence of sequence of int
        Of each run of each group.
    fitted : sequence of bool
        Whether a group's runs are fitted one after the other: each of its steps is a run then.
    on_progress : callable
        Called from a thread of its own.

    Yields
    ------
    list of GroupCounter
        By group.
    """
    with TemporaryDirectory(prefix="cptlite-") as folder:
        path, groups = Path(folder) / "steps", len(steps)
        np.zeros((groups, 2), np.int64).tofile(path)
        table = np.memmap(path, np.int64, "r", shape=(groups, 2))
        over = threading.Event()

        def look() -> None:
            on_progress(_sum_up(np.array(table), steps, fitted))

        def watch() -> None:
            while not over.wait(LOOK_SECONDS):
                look()

        look()
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield [GroupCounter(path, group, groups) for group in range(groups)]
        finally:
            over.set()
            thread.join()
        look()


def _sum_up(table: np.ndarray, steps: Sequence[Sequence[int]], fitted: Sequence[bool]) -> Progress:
    """Add up what is counted (groups, 2); a group that is finished took all its steps, some perhaps long ago."""
    runs_done = steps_done = 0
    for (taken, finished), of_group, of_fits in zip(table.tolist(), steps, fitted, strict=True):
        taken = sum(of_group) if finished else min(taken, sum(of_group))
        runs_done += len(of_group) if finished else taken if of_fits else 0
        steps_done += taken
    return Progress(runs_done=runs_done, runs=sum(map(len, steps)), steps_done=steps_done, steps=sum(map(sum, steps)))
