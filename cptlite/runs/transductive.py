"""All test rows of a task predicted together: a finished run's scores, refined by TransCLIP.

Axes: N rows of a task, C classes of a task, S labelled rows, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.cache import FeatureCache
from cptlite.config import RunConfig
from cptlite.datasets.types import Task
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import FewShotRows
from cptlite.methods.probes.transclip import Labelled, transduce
from cptlite.runs.matching import Place
from cptlite.runs.rows import no_rows
from cptlite.runs.seen import seen_sizes
from cptlite.runs.support import draw_rows, support_fingerprints

__all__ = ["HOW", "Transduction", "read_transduction", "support_datasets"]

HOW = {"method": "transclip", "sees": "all test rows of a task together, without their labels"}


@dataclass(frozen=True, kw_only=True)
class Transduction:
    """Refines the scores of a task's rows; a `cptlite.runs.evaluate.Refine`.

    Attributes
    ----------
    train, val : tuple of FewShotRows
        What the run learned from and chose on, of each fitted task, whose classes they are numbered in; of none that
        was held out, or of a method that looks at no rows.
    """

    train: tuple[FewShotRows, ...]
    val: tuple[FewShotRows, ...]

    def __call__(self, place: Place, features: Tensor, scores: Tensor) -> tuple[Tensor, dict[str, float]]:
        """From raw rows (N, D) and scores (N, C) to logs of probabilities (N, C), and what was chosen."""
        train, val = (_labelled(rows[place.home], place) for rows in (self.train, self.val))
        return transduce(F.normalize(features.float(), dim=-1), scores.float(), train, val)


def support_datasets(config: RunConfig) -> tuple[str, ...]:
    """Names of the cached datasets that `read_transduction` reads rows of."""
    return config.datasets if config.entry.needs_rows else ()


def read_transduction(
    config: RunConfig,
    tasks: Sequence[Task],
    caches: Sequence[FeatureCache],
    trained_on: Mapping[str, Any],
    device: torch.device,
) -> Transduction:
    """Read the rows that a run learned from and chose on.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    tasks : sequence of Task
        Fitted ones.
    caches : sequence of FeatureCache
        Of `support_datasets`.
    trained_on : mapping
        Fingerprints of the caches that the run was trained on, support sets too, by dataset.
    device : torch.device

    Raises
    ------
    UsageError
        The run's images are their patch features.
    DataError
        A cache is not the one that the run was trained on.
    """
    if config.entry.needs_patches:
        raise UsageError(
            f"{config.method} scores patch features, and rows are compared by their pooled ones: leave --transductive "
            f"out, or give a run of another method"
        )
    there = {cache.path.stem: cache.fingerprint.of_pooled() for cache in caches}
    for name, fingerprint in (there | (support_fingerprints(config, caches) if caches else {})).items():
        if trained_on.get(name) != fingerprint:
            raise DataError(
                f"wanted the cache of {name!r} as it was when the run was trained, whose labelled rows --transductive "
                f"takes, got another: train the run anew"
            )
    sizes, none = seen_sizes(config, tasks), no_rows(1, device)
    train, val = draw_rows(config, caches, device) if caches else (none, none)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    own = [
        tuple(rows.of_classes(start, start + size) for start, size in zip(starts, sizes, strict=True))
        for rows in (train, val)
    ]
    return Transduction(train=own[0], val=own[1])


def _labelled(rows: FewShotRows, place: Place) -> Labelled:
    """Mean over the views of rows, at unit length, of a place's classes and numbered as there."""
    labels = place.number(rows.labels)
    kept = labels >= 0
    units = F.normalize(rows.features[kept].float(), dim=-1).mean(dim=1)
    return Labelled(x=F.normalize(units, dim=-1), y=labels[kept])
