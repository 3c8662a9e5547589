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


def verify_cache(path: Path) -> int:
    """Read every chunk of a cache file against its checksum, and check that its parts fit together.

    Memory does not grow with the rows but for their labels: one chunk is read at a time.

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
        check_classes(cache)
        return sum(counts)


def check_classes(cache: FeatureCache) -> None:
    """Check that every row is of a task that there is, and of a class of it: cheap, as labels alone are read.

    Raises
    ------
    DataError
        Labels or tasks are out of range, or their chunks are damaged.
    """
    classes = np.array([len(task.class_names) for task in cache.tasks])
    for split in SPLITS:
        labels, tasks = cache.labels(split), cache.row_tasks(split)
        if len(labels) and not (tasks.min() >= 0 and tasks.max() < len(classes) and labels.min() >= 0):
            raise damaged(cache.path, f"{split} rows of no task or class")
        if len(labels) and (labels >= classes[tasks]).any():
            raise damaged(cache.path, f"{split} rows of no class of their task")


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
