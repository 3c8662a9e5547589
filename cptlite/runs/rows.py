"""From cache files to training and validation rows in memory.

Axes: N rows, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.config import RunConfig
from cptlite.datasets.checks import Labelled, counted, short_classes
from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows
from cptlite.methods.class_texts import check_class_texts, lacking_class_texts, texts_in
from cptlite.methods.entry import MethodEntry
from cptlite.methods.table import METHODS
from cptlite.runs.guards import check_features, sound_features
from cptlite.runs.seen import seen_sizes
from cptlite.runs.sources import learns_source
from cptlite.shots import ALL_SHOTS, mean_shots
from cptlite.splits import check_shots, few_shot_rows

__all__ = [
    "check_caches",
    "check_text",
    "count_images",
    "count_rows",
    "count_steps",
    "draw_few_shots",
    "no_rows",
    "short_rows",
]

UNSEEN = -1
ANEW = ", or import them anew with --backbone NAME if they are those of a CLIP"


def check_caches(caches: Sequence[FeatureCache], configs: Sequence[RunConfig]) -> None:
    """Find out what learning would fail on before it begins: labels of rows that are learned from are read.

    Raises
    ------
    DataError
        A row is of no class or task that there is, the rows that a method needs are not there, or class texts
        that were given say nothing of any class, attributes of one.
    UsageError
        More shots than any class has, or a task to hold out is not there.
    """
    for cache, split in product(caches, ("train", "val")):
        check_classes(cache, split, cache.labels(split), cache.row_tasks(split))
    tasks = [task for cache in caches for task in cache.tasks]
    for config in configs:
        for texts in texts_in(config.options):
            check_class_texts(texts, tasks)
    needy = [config for config in configs if config.entry.needs_rows]
    if needy:
        sizes = seen_sizes(needy[0], tasks)
        seen = [(cache, own) for cache, own in _by_cache(caches, sizes) if own.any()]
        _check_alike([cache for cache, _ in seen], needy[0].entry.needs_patches)
        for cache, own in seen:
            classes, numbers = _classes(cache, "train"), _numbers(cache, own, 0)
            for shots in {config.shots for config in needy}:
                check_shots(classes[numbers[classes] != UNSEEN], shots)


def check_text(config: RunConfig, backbone: Backbone) -> None:
    """Refuse a method that encodes prompts where none can be.

    Raises
    ------
    DataError
        It says which methods do without.
    """
    lack = backbone.lacks_text if _needs_text(config.entry) else ""
    if lack:
        others = ", ".join(name for name, entry in METHODS.items() if not _needs_text(entry))
        raise DataError(
            f"{config.method} encodes prompts and wants a text tower, got {backbone.name!r}, {lack}: give one of "
            f"{others}{'' if backbone.has_towers else ANEW}"
        )


def _needs_text(entry: MethodEntry) -> bool:
    """Whether a method encodes prompts: all do but probes of image features alone, which say so."""
    return entry.stepped or getattr(entry.load(), "needs_text", True)


def count_rows(caches: Sequence[FeatureCache], config: RunConfig) -> list[int]:
    """Count the training rows that a run draws of each task that it learns from."""
    return [int(of_class.sum()) for of_class in count_images(caches, config)]


def count_images(caches: Sequence[FeatureCache], config: RunConfig) -> list[np.ndarray]:
    """Count the training rows that a run draws of each class (C,) of each task that it learns from."""
    sizes = seen_sizes(config, [task for cache in caches for task in cache.tasks])
    counts = []
    for cache, own in _by_cache(caches, sizes):
        rows = _seen_rows(cache, "train", own)
        for index in np.flatnonzero(own):
            counts.append(np.minimum(np.bincount(rows.labels[rows.tasks == index]), config.shots))
    return counts


def count_steps(caches: Sequence[FeatureCache], config: RunConfig) -> int:
    """Count the steps of a run; a method that is fitted at once takes one."""
    if config.recipe is None:
        return 1
    counts = count_images(caches, config)
    parts = counts if config.separate else [np.concatenate(counts)]
    parts = [np.concatenate(counts), *parts] if learns_source(config) else parts
    return sum(config.recipe.at(mean_shots(part, config.shots)).steps_on(int(part.sum())) for part in parts)


def short_rows(caches: Sequence[FeatureCache], configs: Sequence[RunConfig]) -> dict[str, list[str]]:
    """Say what is short of the rows that runs of one method, on the same classes, learn from and choose on.

    Returns
    -------
    dict of str to list of str
        By dataset, a sentence each: classes without training rows, or with fewer than shots; tasks without
        validation rows, and what the method takes there; classes without descriptions where these were given.

    Raises
    ------
    DataError
        A row is of no class or task that there is.
    """
    entry, method = configs[0].entry, configs[0].method
    lacking = {
        cache.fingerprint.dataset: [
            line for texts in texts_in(configs[0].options) for line in lacking_class_texts(texts, cache.tasks)
        ]
        for cache in caches
    }
    if not entry.needs_rows:
        return {name: lines for name, lines in lacking.items() if lines}
    shots = max((config.shots for config in configs if config.shots != ALL_SHOTS), default=1)
    unchosen = "" if entry.stepped else entry.probe(method, configs[0].options).unchosen
    found = {}
    sizes = seen_sizes(configs[0], [task for cache in caches for task in cache.tasks])
    for cache, own in _by_cache(caches, sizes):
        train, val = (_seen_rows(cache, split, own) for split in ("train", "val"))
        tasks = [replace(task, class_names=task.class_names[:n]) for task, n in zip(cache.tasks, own, strict=True)]
        lines = short_classes(tasks, {"train": train}, shots)
        there = set(np.unique(val.tasks).tolist())
        without = [task.id for index, task in enumerate(tasks) if task.class_names and index not in there]
        if unchosen and without:
            which = f" in {counted(without, 'task', 'tasks')}" if len(tasks) > 1 else ""
            lines.append(f"no validation rows to choose on{which}: {method} takes {unchosen} there")
        found[cache.fingerprint.dataset] = lines + lacking[cache.fingerprint.dataset]
    return found


def _seen_rows(cache: FeatureCache, split: str, sizes: np.ndarray) -> Labelled:
    """Labels and tasks of the rows of a split that are of classes learned from."""
    labels, tasks = cache.labels(split), cache.row_tasks(split)
    check_classes(cache, split, labels, tasks)
    seen = labels < sizes[tasks]
    return Labelled(labels[seen], tasks[seen])


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
    train_parts: list[tuple[np.ndarray, np.ndarray]] = []
    val_parts: list[tuple[np.ndarray, np.ndarray]] = []
    offset = 0
    for cache, own in seen:
        numbers = _numbers(cache, own, offset)
        classes = {split: _classes(cache, split) for split in ("train", "val")}
        check_shots(classes["train"][numbers[classes["train"]] != UNSEEN], shots)
        drawn = few_shot_rows(classes["train"], classes["val"], shots, seed)
        for (split, of_split), rows, parts in zip(classes.items(), drawn, (train_parts, val_parts), strict=True):
            rows = rows[numbers[of_split[rows]] != UNSEEN]
            parts.append((_read(cache, split, rows, patches), numbers[of_split[rows]]))
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


def _classes(cache: FeatureCache, split: str) -> np.ndarray:
    """Class of each row among those of all the cache's tasks, (N,)."""
    starts = np.cumsum([0, *(len(task.class_names) for task in cache.tasks)], dtype=np.int32)[:-1]
    return starts[cache.row_tasks(split)] + cache.labels(split)


def _numbers(cache: FeatureCache, sizes: np.ndarray, first: int) -> np.ndarray:
    """Give each class of a cache (K,) its number, from ``first`` on, among those learned from; UNSEEN to others."""
    seen = np.concatenate([np.arange(len(task.class_names)) < n for task, n in zip(cache.tasks, sizes, strict=True)])
    return np.where(seen, first + np.cumsum(seen) - 1, UNSEEN)


def _read(cache: FeatureCache, split: str, rows: np.ndarray, patches: bool) -> np.ndarray:
    """Features (n, V, D), or of patches (n, 1, M, D), of some rows."""
    features = cache.patches(split, rows)[:, None] if patches else cache.features(split, rows)
    check_features(cache, split, rows, sound_features(torch.from_numpy(features)))
    return features


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> FewShotRows:
    features = torch.from_numpy(np.concatenate([features for features, _ in parts]))
    labels = torch.from_numpy(np.concatenate([classes for _, classes in parts])).long()
    return FewShotRows(features=features.to(device), labels=labels.to(device))
