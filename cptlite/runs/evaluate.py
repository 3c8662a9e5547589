"""The one place that reads test rows: a finished classifier on every task, once; or validation rows, as often as asked.

Axes: N test rows of a task, B rows of a chunk, K classes of all tasks in task-major order, C of a task, M patches of an
image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.classifiers import Classifier
from cptlite.datasets.checks import Labelled, short_classes
from cptlite.datasets.types import Task
from cptlite.errors import DataError
from cptlite.runs.guards import check_features, check_scores, sound_features, sound_scores
from cptlite.runs.matching import Place, match_tasks
from cptlite.runs.predictions import TaskPredictions

__all__ = ["Refine", "check_test_rows", "evaluate", "feature_chunks", "untested_classes"]

Refine = Callable[[Place, Tensor, Tensor], tuple[Tensor, Mapping[str, float]]]
"""From the place of a task, all its raw rows (N, D) and all their scores (N, C) to others, and what was chosen."""

CHUNK = 4096
PATCH_CHUNK = 256  # rows of up to 1 MiB each


def check_test_rows(caches: Sequence[FeatureCache], sizes: Sequence[int] = (), split: str = "test") -> None:
    """Find out what `evaluate` would fail on before anything is trained: labels alone are read, and nothing is kept.

    Parameters
    ----------
    caches : sequence of FeatureCache
    sizes : sequence of int
        Number of the classes that are learned from, of each task of all caches; where that is neither all of a task's
        nor none, both they and the others are wanted. By default nothing is learned anew.

    Raises
    ------
    DataError
        A test row is of no class or task that there is, or a task has no test rows, or none of its base or new classes.
    """
    learned = iter(sizes)
    for cache in caches:
        labels, tasks = cache.labels(split), cache.row_tasks(split)
        check_classes(cache, split, labels, tasks)
        there = set(tasks.tolist())
        empty = [repr(task.id) for index, task in enumerate(cache.tasks) if index not in there]
        if empty:
            which = f" of {', '.join(empty)}" if there else ""
            raise DataError(f"{cache.path} has no {split} rows{which}: leave it out with --dataset, or cache it anew")
        for index, (task, size) in enumerate(zip(cache.tasks, learned, strict=False)):
            _check_halves(cache, split, task, labels[tasks == index] < size, size)


def _check_halves(cache: FeatureCache, split: str, task: Task, of_base: np.ndarray, size: int) -> None:
    """Refuse a task some of whose classes are new, with rows of the one half alone."""
    if 0 < size < len(task.class_names) and (of_base.all() or not of_base.any()):
        which = "new" if of_base.all() else "base"
        raise DataError(
            f"{cache.path} has no {split} rows of the {which} classes of {task.id!r}: leave out --classes base, or the "
            f"dataset with --dataset"
        )


def untested_classes(caches: Sequence[FeatureCache]) -> dict[str, list[str]]:
    """Name the classes without test rows: a sentence for each dataset that has any, by its name."""
    found = {}
    for cache in caches:
        rows = Labelled(cache.labels("test"), cache.row_tasks("test"))
        check_classes(cache, "test", *rows)
        found[cache.fingerprint.dataset] = short_classes(cache.tasks, {"test": rows})
    return found


@torch.no_grad()
def evaluate(
    classifier: Classifier,
    caches: Sequence[FeatureCache],
    device: torch.device,
    *,
    patches: bool = False,
    fitted: Sequence[Task] | None = None,
    sizes: Sequence[int] | None = None,
    split: str = "test",
    refine: Refine | None = None,
) -> list[TaskPredictions]:
    """Predict the class of every row of a split, of every task.

    Parameters
    ----------
    classifier : Classifier
    caches : sequence of FeatureCache
    device : torch.device
        Of the classifier.
    patches : bool
        Give the classifier patch features (B, M, D), read as they are scored, instead of pooled ones (B, D).
    fitted : sequence of Task, optional
        Whose classes the classifier scores; by default those of the caches, in order. Those of the caches are found
        among them by `match_tasks`, and a row is scored over the classes of its own task.
    sizes : sequence of int, optional
        Number of the classes, the first ones, of each fitted task that were learned from, as of `seen_sizes`; by
        default all.
    split : str
        Test rows, unless others are asked for.
    refine : callable, optional
        Makes of a task's rows and scores those that count, of all rows together: then predictions are transductive.

    Returns
    -------
    list of TaskPredictions
        In the order of the caches' tasks.

    Raises
    ------
    CptliteError
        Features or scores of a row are not finite.
    UsageError
        A task has other classes than those fitted.
    """
    tasks = [task for cache in caches for task in cache.tasks]
    fitted = tasks if fitted is None else fitted
    sizes = [len(task.class_names) for task in fitted] if sizes is None else sizes
    places = iter(match_tasks(fitted, tasks))
    found = []
    for cache in caches:
        rows = _Split.read(cache, split)
        for index in range(len(cache.tasks)):
            place = next(places)
            found.append(_predict(classifier, rows, index, place, sizes[place.home], device, patches, refine))
    return found


class _Split(NamedTuple):
    """What is read once of a cache's rows, whatever number of tasks they are of."""

    cache: FeatureCache
    name: str
    labels: np.ndarray
    tasks: np.ndarray
    paths: tuple[str, ...]

    @classmethod
    def read(cls, cache: FeatureCache, split: str) -> _Split:
        return cls(cache, split, cache.labels(split), cache.row_tasks(split), cache.paths(split))


def _predict(
    classifier: Classifier,
    split: _Split,
    index: int,
    place: Place,
    size: int,
    device: torch.device,
    patches: bool,
    refine: Refine | None,
) -> TaskPredictions:
    """Predict the rows of one task of a cache, whose fitted task's first ``size`` classes were learned from."""
    cache, rows = split.cache, np.flatnonzero(split.tasks == index)
    labels, halved = split.labels[rows], 0 < size < place.size
    base = _base_mask(place, size).to(device)  # (C,)
    # Whole from the start: what is added chunk by chunk lies between the chunks' memory, which never gets free.
    best, of_half, ranks = torch.empty(3, len(rows), dtype=torch.int64, device=device)
    likely = torch.empty(len(rows), device=device)
    sound, ranked = torch.empty(2, len(rows), dtype=torch.bool, device=device)
    chunks: Iterable[_Chunk] = _score(classifier, split, rows, place, device, patches)
    chosen: Mapping[str, float] | None = None
    if refine is not None:
        whole = _join(list(chunks))
        check_features(cache, split.name, rows, sound_features(whole.features))
        scores, chosen = refine(place, whole.features, whole.scores)
        chunks = [whole._replace(scores=scores)]
    for here, features, scores in chunks:
        own = torch.from_numpy(labels[here]).to(device, non_blocking=True).long()  # (B,)
        best[here] = scores.argmax(dim=-1)  # of scores (B, C)
        if halved:
            of_half[here] = scores.masked_fill(base[own][:, None] != base, float("-inf")).argmax(dim=-1)
        ranks[here] = _ranks(scores, own)
        likely[here] = scores.float().softmax(dim=-1).gather(1, best[here, None])[:, 0]
        sound[here] = sound_features(features)
        ranked[here] = sound_scores(scores)
    check_features(cache, split.name, rows, sound)
    check_scores(cache, split.name, rows, ranked)
    return TaskPredictions(
        task=cache.tasks[index],
        images=tuple(split.paths[row] for row in rows),
        labels=labels,
        predicted=best.cpu().numpy(),
        ranks=ranks.cpu().numpy(),
        probabilities=likely.cpu().numpy(),
        held_out=size == 0,
        base=base.cpu().numpy() if halved else None,
        of_half=of_half.cpu().numpy() if halved else None,
        transductive=chosen,
    )


class _Chunk(NamedTuple):
    """Some rows of a task: where they stand among its rows, raw features (B, D) or (B, M, D), and scores (B, C)."""

    here: slice
    features: Tensor
    scores: Tensor


def _score(
    classifier: Classifier, split: _Split, rows: np.ndarray, place: Place, device: torch.device, patches: bool
) -> Iterator[_Chunk]:
    """Score the rows of a task over its classes, in its order."""
    columns = None if place.columns is None else torch.tensor(place.columns, device=device)  # (C,)
    for here, chunk in feature_chunks(split.cache, split.name, rows, patches=patches):
        features = torch.from_numpy(chunk).to(device, non_blocking=True)  # (B, D) or (B, M, D)
        scores = classifier.scores(features, place.classes)
        yield _Chunk(here, features, scores if columns is None else scores.index_select(1, columns))


def _join(chunks: Sequence[_Chunk]) -> _Chunk:
    """All rows of a task as one chunk."""
    features, scores = (list(parts) for parts in zip(*(chunk[1:] for chunk in chunks), strict=True))
    return _Chunk(slice(None), torch.cat(features), torch.cat(scores))


def _base_mask(place: Place, size: int) -> Tensor:
    """Which classes of a task (C,) are among the first ``size`` of the fitted one's."""
    columns = range(place.size) if place.columns is None else place.columns
    return torch.tensor([column < size for column in columns])


def feature_chunks(
    cache: FeatureCache, split: str, rows: np.ndarray, *, patches: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """Read plain features (B, D), or of patches (B, M, D), and where they stand: a big dataset's fill the memory."""
    size = PATCH_CHUNK if patches else CHUNK
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        yield here, cache.patches(split, rows[here]) if patches else cache.features(split, rows[here], views=0)[:, 0]


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Place of each row's class (B,) in the order of its scores (B, C), of equal ones the first before: (B,)."""
    own = scores.gather(1, labels[:, None])  # (B, 1)
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]  # (B, C)
    return 1 + ((scores > own) | ((scores == own) & before)).sum(dim=-1)
