"""Rows of a run that learns from another cached dataset's images of the same classes: generated, or retrieved.

Axes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from cptlite.cache import FeatureCache, open_cache
from cptlite.cache.format import cache_path
from cptlite.config import RunConfig
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import FewShotRows
from cptlite.runs.matching import Place, match_tasks
from cptlite.runs.rows import draw_few_shots
from cptlite.runs.seen import seen_sizes

__all__ = ["draw_rows", "support_fingerprints"]


def support_fingerprints(config: RunConfig, caches: Sequence[FeatureCache]) -> dict[str, Any]:
    """Fingerprints of the support sets' caches, by dataset; of a method without any, nothing.

    Errors are those of `draw_rows`.
    """
    with _support_caches(config, caches) as support:
        return {cache.path.stem: cache.fingerprint.of_pooled() for cache in support}


def draw_rows(
    config: RunConfig, caches: Sequence[FeatureCache], device: torch.device
) -> tuple[FewShotRows, FewShotRows]:
    """Draw the rows that a run learns from and chooses on.

    Parameters
    ----------
    config : RunConfig
        Of a method with support sets the training rows are theirs, as many of a class and drawn as those of any
        dataset; validation rows are the datasets' own.
    caches : sequence of FeatureCache
        Of the configuration's datasets. Support sets lie cached beside the first of them.
    device : torch.device

    Raises
    ------
    UsageError
        No support set is named, it lacks classes, or more shots than any class has.
    DataError
        A support set is not cached, or its features are of other weights or other views.
    CptliteError
        Features of a row are not finite, or all 0.
    """
    tasks = [task for cache in caches for task in cache.tasks]
    sizes, patches = seen_sizes(config, tasks), config.entry.needs_patches
    how: dict[str, Any] = {"shots": config.shots, "seed": config.seed, "device": device}
    train, val = draw_few_shots(caches, **how, patches=patches, sizes=sizes)
    with _support_caches(config, caches) as support:
        if not support:
            return train, val
        fitted = [task for cache in support for task in cache.tasks]
        try:
            places = match_tasks(fitted, tasks)
        except UsageError as error:
            raise UsageError(f"the support set lacks classes of the task: {error}") from None
        rows, _ = draw_few_shots(support, **how)
    parts, first = [], 0
    for place, task in zip(places, tasks, strict=True):
        parts.append(_own(rows, place, first))
        first += len(task.class_names)
    features, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "labels"))
    return FewShotRows(features=features, labels=labels), val


@contextmanager
def _support_caches(config: RunConfig, caches: Sequence[FeatureCache]) -> Iterator[list[FeatureCache]]:
    """Open the support sets of a configuration's method; none of one that has no such option."""
    names = getattr(config.options, "supports", None)
    if names == ():
        raise UsageError(
            f"{config.method} learns from a support set, got none: give --support and the name of a dataset cached "
            f"beside, or tip-x, which learns from the training images"
        )
    with ExitStack() as stack:
        found = []
        for name in names or ():
            path = cache_path(caches[0].path.parents[1], caches[0].path.parent.name, name)
            if not path.is_file():
                raise DataError(
                    f"wanted the support set {name!r} cached as {path}, found no file: make it with cptlite cache "
                    f"--dataset and the folder of its images"
                )
            wanted = {"dataset": name, "weights_sha256": caches[0].fingerprint.weights_sha256}
            cache = stack.enter_context(open_cache(path, wanted))
            found.append(cache)
        yield found


def _own(rows: FewShotRows, place: Place, first: int) -> FewShotRows:
    """Rows of a place's classes, numbered from ``first`` on in the order of its columns."""
    own = rows.of_classes(place.classes.start, place.classes.stop)
    numbers = place.number(own.labels)  # (N,)
    kept = torch.nonzero(numbers >= 0)[:, 0]
    return FewShotRows(features=own.features[kept], labels=first + numbers[kept])
