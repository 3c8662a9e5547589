"""From cache files to training and validation rows in memory.

Axes: N rows, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.config import RunConfig
from cptlite.datasets.checks import Labelled, counted, short_classes
from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows
from cptlite.runs.guards import check_features, sound_features
from cptlite.splits import check_shots, few_shot_rows

__all__ = ["check_caches", "draw_few_shots", "no_rows", "short_rows"]


def check_caches(caches: Sequence[FeatureCache], configs: Sequence[RunConfig]) -> None:
    """Find out what learning would fail on before it begins: labels of rows that are learned from are read.

    Raises
    ------
    DataError
        A row is of no class or task that there is, or the rows that a method needs are not there.
    UsageError
        More shots than any class has.
    """
    for cache, split in product(caches, ("train", "val")):
        check_classes(cache, split, cache.labels(split), cache.row_tasks(split))
    needy = [config for config in configs if config.entry.needs_rows]
    if needy:
        _check_alike(caches, needy[0].entry.needs_patches)
        for cache in caches:
            check_shots(_classes(cache, "train"), max(config.shots for config in needy))


def short_rows(caches: Sequence[FeatureCache], configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """Say what is short of the rows that runs of one method learn from and choose on.

    Returns
    -------
    dict of str to list of str
        By dataset, a sentence each: classes without training rows, or with fewer than shots; tasks without
        validation rows, and what the method takes there.

    Raises
    ------
    DataError
        A row is of no class or task that there is.
    """
    entry, method = configs[0].entry, configs[0].method
    if not entry.needs_rows:
        return {}
    shots = max(config.shots for config in configs)
    unchosen = "" if entry.stepped else entry.probe(method, configs[0].options).unchosen
    found = {}
    for cache in caches:
        rows = Labelled(cache.labels("train"), cache.row_tasks("train"))
        check_classes(cache, "train", *rows)
        lines = short_classes(cache.tasks, {"train": rows}, shots)
        there = set(np.unique(cache.row_tasks("val")).tolist())
        without = [task.id for index, task in enumerate(cache.tasks) if index not in there]
        if unchosen and without:
            which = f" in {counted(without, 'task', 'tasks')}" if len(cache.tasks) > 1 else ""
            lines.append(f"no validation rows to choose on{which}: {method} takes {unchosen} there")
        found[cache.fingerprint.dataset] = lines
    return found


def draw_few_shots(
    caches: Sequence[FeatureCache], *, shots: int, seed: int, device: torch.device, patches: bool = False
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

    Returns
    -------
    train, val : FewShotRows
        Classes are numbered over the tasks of all caches. Validation has view 0 only.

    Raises
    ------
    UsageError
        More shots than any class has.
    DataError
        A dataset has no training rows, the caches hold different numbers of views, or one lacks patch features.
    CptliteError
        Features of a row are not finite, or all 0.
    """
    _check_alike(caches, patches)
    train_parts, val_parts = [], []
    offset = 0
    for cache in caches:
        train_classes, val_classes = _classes(cache, "train"), _classes(cache, "val")
        check_shots(train_classes, shots)
        train, val = few_shot_rows(train_classes, val_classes, shots, seed)
        train_parts.append((_read(cache, "train", train, patches), train_classes[train] + offset))
        val_parts.append((_read(cache, "val", val, patches), val_classes[val] + offset))
        offset += sum(len(task.class_names) for task in cache.tasks)
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


def _classes(cache: FeatureCache, split: str) -> np.ndarray:
    """Class of each row among those of all the cache's tasks, (N,)."""
    starts = np.cumsum([0, *(len(task.class_names) for task in cache.tasks)], dtype=np.int32)[:-1]
    return starts[cache.row_tasks(split)] + cache.labels(split)


def _read(cache: FeatureCache, split: str, rows: np.ndarray, patches: bool) -> np.ndarray:
    """Features (n, V, D), or of patches (n, 1, M, D), of some rows."""
    features = cache.patches(split, rows)[:, None] if patches else cache.features(split, rows)
    check_features(cache, split, rows, sound_features(torch.from_numpy(features)))
    return features


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> FewShotRows:
    features = torch.from_numpy(np.concatenate([features for features, _ in parts]))
    labels = torch.from_numpy(np.concatenate([classes for _, classes in parts])).long()
    return FewShotRows(features=features.to(device), labels=labels.to(device))
