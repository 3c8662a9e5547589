"""Whether a cache file still holds what was written.

Axes: N rows of a split.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cptlite.cache.read import FeatureCache, damaged, open_cache, reading
from cptlite.datasets.types import SPLITS

__all__ = ["check_classes", "verify_cache"]

BLOCK = 2**16  # rows whose labels are in memory at a time


def verify_cache(path: Path) -> int:
    """Read every chunk of a cache file against its checksum, and check that its parts fit together.

    Memory does not grow with the rows: one chunk, or the labels of one block, is read at a time.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int
        Chunks read.

    Raises
    ------
    DataError
        As of `cptlite.cache.open_cache`; or the file is damaged.
    """
    with open_cache(path) as cache, reading(cache.path):
        counts: list[int] = []
        cache.file.visititems(lambda _, item: counts.append(_read_chunks(item)))
        for split in SPLITS:
            for start in range(0, cache.num_rows(split), BLOCK):
                part = slice(start, start + BLOCK)
                check_classes(cache, split, cache.labels(split, part), cache.row_tasks(split, part), start)
        return sum(counts)


def check_classes(cache: FeatureCache, split: str, labels: np.ndarray, tasks: np.ndarray, first: int = 0) -> None:
    """Refuse rows of a split, (N,) and (N,), from the ``first`` on, that are of no class or task that there is.

    Raises
    ------
    DataError
        It says the first of them.
    """
    sizes = np.array([len(task.class_names) for task in cache.tasks])
    if len(labels) != len(tasks):
        wrong, reason = min(len(labels), len(tasks)), f"{len(labels)} labels for {len(tasks)} rows with a task"
    elif (outside := (tasks < 0) | (tasks >= len(sizes))).any():
        wrong = int(outside.argmax())
        reason = f"task {tasks[wrong]} where there are {len(sizes)}"
    elif (outside := (labels < 0) | (labels >= sizes[tasks])).any():
        wrong = int(outside.argmax())
        reason = f"class {labels[wrong]} where task {cache.tasks[tasks[wrong]].id!r} has {sizes[tasks[wrong]]}"
    else:
        return
    raise damaged(cache.path, f"row {first + wrong} of split {split!r}: {reason}")


def _read_chunks(item: h5py.Group | h5py.Dataset) -> int:
    """Read a dataset chunk by chunk and return how many there are."""
    if not isinstance(item, h5py.Dataset) or item.size == 0:
        return 0
    chunks = 0
    for chunk in item.iter_chunks():
        values = item[chunk]
        chunks += 1
        if item.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"numbers of {item.name!r} are not finite")
        if item.dtype.kind == "S":
            for text in values.tolist():
                text.decode()
    return chunks
