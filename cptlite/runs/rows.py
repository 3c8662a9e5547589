"""From cache files to training and validation rows in memory.

Axes: N rows, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch

from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.config import RunConfig
from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows
from cptlite.runs.guards import check_features, sound_features
from cptlite.runs.seen import seen_sizes
from cptlite.splits import check_shots, few_shot_rows

__all__ = ["check_caches", "draw_few_shots", "no_rows"]


def check_caches(caches: Sequence[FeatureCache], configs: Sequence[RunConfig]) -> None:
    """Find out what learning would fail on before it begins: labels of rows that are learned from are read.

    Raises
    ------
    DataError
        A row is of no class or task that there is, or the rows that a method needs are not there.
    UsageError
        More shots than any class has, or a task to hold out is not there.
    """
    for cache, split in product(caches, ("train", "val")):
        check_classes(cache, split, cache.labels(split), cache.row_tasks(split))
    needy = [config for config in configs if config.entry.needs_rows]
    if needy:
        sizes = seen_sizes(needy[0], [task for cache in caches for task in cache.tasks])
        seen = [(cache, own) for cache, own in _by_cache(caches, sizes) if own.any()]
        _check_alike([cache for cache, _ in seen], needy[0].entry.needs_patches)
        for cache, own in seen:
            groups = _groups(cache, "train")
            check_shots(groups[_is_seen(groups, own)], max(config.shots for config in needy))


def draw_few_shots(
    caches: Sequence[FeatureCache],
    *,
    shots: int,
    seed: int,
    device: torch.device,
    patches: bool = False,
    sizes: Sequence[int] | None = None,
) -> tuple[FewShotRows, FewShotRows]:
    """Draw the published few-shot rows of every cache and read them.

    Parameters
    ----------
    caches : sequence of FeatureCache
        In task order; their embed dimensions and views agree.
    shots, seed : int
        Training rows per class, and the seed of the draw; validation gets at most 4 per class.
    device : torch.device
    patches : bool
        Read patch features, of view 0 only, instead of pooled ones.
    sizes : sequence of int, optional
        Number of the classes of each task that are learned from, as of `seen_sizes`; by default all. The draw is that
        of all classes, as in CoOp's base-to-new split, but no row of another class is read.

    Returns
    -------
    train, val : FewShotRows
        Classes are numbered over those learned from of all tasks. Validation has view 0 only.

    Raises
    ------
    UsageError
        More shots than any class has.
    DataError
        A dataset has no training rows, the caches hold different numbers of views, or one lacks patch features.
    CptliteError
        Features of a row are not finite, or all 0.
    """
    if sizes is None:
        sizes = [len(task.class_names) for cache in caches for task in cache.tasks]
    seen = [(cache, own) for cache, own in _by_cache(caches, sizes) if own.any()]
    _check_alike([cache for cache, _ in seen], patches)
    train_parts, val_parts = [], []
    offset = 0
    for cache, own in seen:
        starts = np.cumsum([offset, *own])[:-1]
        train_groups, val_groups = _groups(cache, "train"), _groups(cache, "val")
        check_shots(train_groups[_is_seen(train_groups, own)], shots)
        train, val = few_shot_rows(train_groups, val_groups, shots, seed)
        train, val = train[_is_seen(train_groups[train], own)], val[_is_seen(val_groups[val], own)]
        train_parts.append(_read(cache, "train", train, starts, patches))
        val_parts.append(_read(cache, "val", val, starts, patches))
        offset += int(own.sum())
    return _join(train_parts, device), _join(val_parts, device)


def no_rows(dim: int, device: torch.device) -> FewShotRows:
    """Return zero rows of joint dimension ``dim``, for a method that looks at none."""
    return FewShotRows(features=torch.empty(0, 1, dim, device=device), labels=torch.empty(0, device=device).long())


def _check_alike(caches: Sequence[FeatureCache], patches: bool) -> None:
    views = {cache.path.stem: cache.attributes["views"] for cache in caches}
    if len(set(views.values())) > 1 and not patches:
        raise DataError(
            f"the caches hold different numbers of views ({views}): cache them with one --views, or narrow --dataset"
        )
    for cache in caches:
        if cache.num_rows("train") == 0:
            raise DataError(f"{cache.path} has no train rows: leave it out with --dataset, or use --method zeroshot")


def _by_cache(caches: Sequence[FeatureCache], sizes: Sequence[int]) -> Iterator[tuple[FeatureCache, np.ndarray]]:
    """Each cache with its own part of one number a task."""
    first = 0
    for cache in caches:
        yield cache, np.array(sizes[first : first + len(cache.tasks)])
        first += len(cache.tasks)


def _is_seen(groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether rows of (task, label), (N, 2), are of a class that is learned from: (N,), bool."""
    return groups[:, 1] < sizes[groups[:, 0]]


def _groups(cache: FeatureCache, split: str) -> np.ndarray:
    """(task, label) of each row, (N, 2)."""
    return np.stack([cache.row_tasks(split), cache.labels(split)], axis=1)


def _read(
    cache: FeatureCache, split: str, rows: np.ndarray, starts: np.ndarray, patches: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, V, D) or (n, 1, M, D) and classes (n,) of some rows; those of a task start at ``starts``."""
    classes = starts[cache.row_tasks(split)[rows]] + cache.labels(split)[rows]
    features = cache.patches(split, rows)[:, None] if patches else cache.features(split, rows)
    check_features(cache, split, rows, sound_features(torch.from_numpy(features)))
    return features, classes


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> FewShotRows:
    features = torch.from_numpy(np.concatenate([features for features, _ in parts]))
    labels = torch.from_numpy(np.concatenate([classes for _, classes in parts])).long()
    return FewShotRows(features=features.to(device), labels=labels.to(device))
