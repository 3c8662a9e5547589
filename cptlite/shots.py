"""A number of shots: as a run has it, as files have it, and as a recipe counts it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ALL", "ALL_SHOTS", "mean_shots", "read_shots", "say_shots"]

ALL, ALL_SHOTS = "all", 2**31 - 1
"""Every training row of each class: the word, and the number of shots that stands for it, which no class has."""


def mean_shots(counts: Iterable[int], shots: int) -> float:
    """Rows of a class as a recipe counts them: the shots; of `ALL_SHOTS` the mean over classes that have any.

    Parameters
    ----------
    counts : iterable of int
        Rows of each class.
    shots : int
    """
    some = [int(count) for count in counts if count]
    return shots if shots != ALL_SHOTS or not some else sum(some) / len(some)


def read_shots(word: int | str) -> int:
    """Read a number of shots as files have it."""
    return ALL_SHOTS if word == ALL else int(word)


def say_shots(shots: int) -> int | str:
    """Write a number of shots as files have it: `ALL` for all."""
    return ALL if shots == ALL_SHOTS else shots
