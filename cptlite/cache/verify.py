"""Whether a cache file still holds what was written.

Axes: N rows of a split.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cptlite.cache.read import FeatureCache, damaged, open_cache, reading
from cptlite.datasets.types import SPLITS

__all__ = ["verify_cache"]


def verify_cache(path: Path) -> int:
    """Read every chunk of a cache file against its checksum, and check that its parts fit together.

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
            _check_split(cache, split)
        if len(cache.bad) != cache.attributes["bad_images"]:
            raise damaged(cache.path, "the number of unreadable images differs from their list")
        return sum(counts)


def _read_chunks(item: h5py.Group | h5py.Dataset) -> int:
    """Read a dataset chunk by chunk and return how many there are; attributes of anything."""
    dict(item.attrs.items())
    if not isinstance(item, h5py.Dataset) or item.size == 0:
        return 0
    return sum(item[chunk] is not None for chunk in item.iter_chunks())


def _check_split(cache: FeatureCache, split: str) -> None:
    labels, tasks = cache.labels(split), cache.row_tasks(split)
    names = ("features", "local") if cache.fingerprint.local else ("features",)
    stored = {name: cache.file[split][name] for name in names}
    rows = {len(labels), len(tasks), len(cache.paths(split)), *map(len, stored.values())}
    if len(rows) > 1:
        raise damaged(cache.path, f"the {split} rows are of different numbers {sorted(rows)}")
    wanted = (cache.fingerprint.local, stored["features"].shape[-1])
    if "local" in stored and stored["local"].shape[1:] != wanted:
        raise damaged(cache.path, f"patch features of shape {stored['local'].shape[1:]}, recorded are {wanted}")
    classes = np.array([len(task.class_names) for task in cache.tasks])
    if len(labels) and not (tasks.min() >= 0 and tasks.max() < len(classes) and labels.min() >= 0):
        raise damaged(cache.path, f"{split} rows of no task or class")
    if (labels >= classes[tasks]).any():
        raise damaged(cache.path, f"{split} rows of no class of their task")
