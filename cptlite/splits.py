"""Which rows an experiment sees: few-shot selections, and how many classes are base ones.

The few-shot sampler is the one the published lists of CoOp were drawn with, so that the same seed
gives the same images.

Source: CoOp (Zhou et al., IJCV 2022), https://github.com/KaiyangZhou/CoOp.

Axes: N rows of one split.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

import numpy as np

from cptlite.errors import UsageError
from cptlite.shots import ALL_SHOTS

__all__ = ["base_classes", "check_shots", "few_shot_rows"]

MAX_VAL_SHOTS = 4

Groups = Sequence[Hashable] | np.ndarray


def few_shot_rows(train_groups: Groups, val_groups: Groups, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``shots`` training rows and ``min(shots, 4)`` validation rows of every class.

    Parameters
    ----------
    train_groups : sequence of N hashables, or ndarray of shape (N,) or (N, 2)
        Class of each training row: a label, or a (task, label) pair.
    val_groups : as ``train_groups``
        Class of each validation row; may be empty.
    shots : int
        Rows per class, at least 1, or `ALL_SHOTS`. A class with fewer keeps all of them.
    seed : int
        Seed of a private generator; the global one is left alone.

    Returns
    -------
    train_rows, val_rows : ndarray, int64
        Row indices in selection order: classes in order of first appearance, the drawn order
        within a class.

    Raises
    ------
    UsageError
        When ``shots`` is below 1.

    Notes
    -----
    One generator serves both splits, training first: that order is part of the published lists.
    """
    if shots < 1:
        raise UsageError(f"shots: wanted a whole number of at least 1, got {shots}")
    generator = random.Random(seed)
    train_rows = _draw(generator, train_groups, shots)
    val_rows = _draw(generator, val_groups, min(shots, MAX_VAL_SHOTS))
    return train_rows, val_rows


def check_shots(train_groups: Groups, shots: int) -> None:
    """Refuse a number of shots that no class could give.

    Parameters
    ----------
    train_groups : as in `few_shot_rows`
        Class of each training row of everything that is trained on.
    shots : int
        Rows per class, or `ALL_SHOTS`.

    Raises
    ------
    UsageError
        When ``shots`` is below 1 or above the size of the largest class.
    """
    largest = max(map(len, _rows_by_group(train_groups)), default=0)
    if not 1 <= shots <= largest and not (largest and shots == ALL_SHOTS):
        hint = f"choose --shots from 1 to {largest}, or all" if largest else "there are no training rows"
        raise UsageError(
            f"shots: wanted a number from 1 to the {largest} training images of the largest class, got {shots}; {hint}"
        )


def base_classes(num_classes: int) -> int:
    """Return how many of a task's classes are base: the first ``ceil(n / 2)`` by label."""
    return (num_classes + 1) // 2


def _rows_by_group(groups: Groups) -> list[np.ndarray]:
    """Row indices of each group in ascending order, groups in order of first appearance."""
    if isinstance(groups, np.ndarray) and groups.ndim == 1:
        _, first, codes = np.unique(groups, return_index=True, return_inverse=True)  # (G,), (N,)
        codes = np.argsort(np.argsort(first))[codes]
    else:
        numbers: dict[Hashable, int] = {}
        pairs = map(tuple, groups.tolist()) if isinstance(groups, np.ndarray) else groups
        codes = np.array([numbers.setdefault(group, len(numbers)) for group in pairs], dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []


def _draw(generator: random.Random, groups: Groups, shots: int) -> np.ndarray:
    """Draw up to ``shots`` rows of each group."""
    drawn: list[int] = []
    for rows in _rows_by_group(groups):
        # A class that is kept whole must not advance the generator, as in the published sampler.
        drawn.extend(generator.sample(rows.tolist(), shots) if len(rows) >= shots else rows.tolist())
    return np.array(drawn, dtype=np.int64)
