"""What lies in a cache folder, opened for a backbone, and whether a file still holds what was written.

Axes: N rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from cptlite.cache.format import cache_path
from cptlite.cache.parts import PartStore, find_stores
from cptlite.cache.read import FeatureCache, damaged, open_cache, reading
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

if TYPE_CHECKING:
    from cptlite.backbones.clip import Backbone

__all__ = ["CacheSummary", "list_caches", "open_caches", "verify_cache"]


@dataclass(frozen=True, kw_only=True)
class CacheSummary:
    """One line of ``cptlite caches``.

    Attributes
    ----------
    path : Path
        The cache file; of an unfinished pass the folder that holds its parts.
    dataset, backbone, dtype : str
        Empty where the file cannot be read.
    rows : mapping of str to int
        By split; of an unfinished pass those finished so far.
    views : int
    local : int
        Local features M of an image; 0 without.
    bad_images : int
        Images left out because they could not be read.
    mib : float
        Size on disk in MiB.
    complete : bool
        False for an unfinished pass, and for a file that cannot be used.
    problem : str
        Why the file cannot be used; empty if it can.
    """

    path: Path
    dataset: str = ""
    backbone: str = ""
    dtype: str = ""
    rows: Mapping[str, int]
    views: int = 0
    local: int = 0
    bad_images: int = 0
    mib: float
    complete: bool = True
    problem: str = ""


def list_caches(cache_dir: Path) -> list[CacheSummary]:
    """Describe every cache file and every unfinished pass under a folder.

    Parameters
    ----------
    cache_dir : Path
        May be missing.

    Returns
    -------
    list of CacheSummary
        By backbone folder, then by file; files that cannot be used are listed with the problem.
    """
    files = [path for path in sorted(Path(cache_dir).glob("*/*.h5")) if not path.name.startswith(".")]
    return [_describe_file(path) for path in files] + [_describe_parts(store) for store in find_stores(Path(cache_dir))]


def _describe_file(path: Path) -> CacheSummary:
    mib = path.stat().st_size / 2**20
    try:
        with open_cache(path) as cache:
            return CacheSummary(
                path=path,
                dataset=cache.fingerprint.dataset,
                backbone=cache.fingerprint.backbone,
                dtype=cache.fingerprint.dtype,
                rows={split: cache.num_rows(split) for split in SPLITS},
                views=cache.fingerprint.views,
                local=cache.fingerprint.local,
                bad_images=cache.attributes["bad_images"],
                mib=mib,
            )
    except DataError as error:
        return CacheSummary(path=path, rows=dict.fromkeys(SPLITS, 0), mib=mib, complete=False, problem=str(error))


def _describe_parts(store: PartStore) -> CacheSummary:
    fingerprint = store.identity.get("fingerprint", {})
    return CacheSummary(
        path=store.folder,
        **{name: fingerprint.get(name, "") for name in ("dataset", "backbone", "dtype")},
        rows={**dict.fromkeys(SPLITS, 0), **store.finished_rows()},
        views=fingerprint.get("views", 0),
        local=fingerprint.get("local", 0),
        mib=sum(path.stat().st_size for path in store.folder.iterdir()) / 2**20,
        complete=False,
    )


def open_caches(cache_dir: Path | str, backbone: Backbone, datasets: Sequence[str] | None = None) -> list[FeatureCache]:
    """Open the cached features of a backbone.

    Parameters
    ----------
    cache_dir : Path or str
    backbone : Backbone
        Whose weights the features must be of.
    datasets : sequence of str, optional
        Names, in task order; by default all that are cached for the backbone, by name, as `cptlite train` has it.

    Returns
    -------
    list of FeatureCache

    Raises
    ------
    DataError
        A dataset is not cached, or its cache is not finished, damaged or of other weights.
    """
    if datasets is None:
        datasets = _complete(Path(cache_dir), backbone)
    with ExitStack() as stack:
        caches = []
        for name in datasets:
            expected = {"dataset": name, "weights_sha256": backbone.weights_sha256}
            path = cache_path(Path(cache_dir), backbone.slug, name)
            caches.append(stack.enter_context(open_cache(path, expected)))
        stack.pop_all()  # they stay open, unless one could not be opened
    return caches


def _complete(cache_dir: Path, backbone: Backbone) -> list[str]:
    """Names of the datasets cached for a backbone: at least one, and none of which there is but half a cache."""
    own = [summary for summary in list_caches(cache_dir) if summary.path.parent.name == backbone.slug]
    names = sorted(summary.dataset for summary in own if summary.complete)
    for summary in own:
        if not summary.complete and summary.dataset not in names:
            raise DataError(
                f"{summary.path} cannot be used: {summary.problem or 'its pass is not finished'}. "
                f"Finish it with `cptlite cache`, or name the datasets to open"
            )
    if not names:
        raise DataError(
            f"no cached features of backbone {backbone.name!r} in {cache_dir}: make them with "
            f"`cptlite cache --dataset NAME --backbone {backbone.name} --cache-dir {cache_dir}`"
        )
    return names


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
        raise damaged(cache.path, f"local features of shape {stored['local'].shape[1:]}, recorded are {wanted}")
    classes = np.array([len(task.class_names) for task in cache.tasks])
    if len(labels) and not (tasks.min() >= 0 and tasks.max() < len(classes) and labels.min() >= 0):
        raise damaged(cache.path, f"{split} rows of no task or class")
    if (labels >= classes[tasks]).any():
        raise damaged(cache.path, f"{split} rows of no class of their task")
