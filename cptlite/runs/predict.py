"""What a classifier says of images: the likeliest classes of each task, image by image, with a batch in memory.

Axes: B images of a batch, C classes of a task, M patches of an image, R pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.cache.verify import check_classes
from cptlite.classifiers import ALL, Classifier, StoredClassifier
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.runs.evaluate import feature_chunks
from cptlite.runs.guards import check_features, sound_features, sound_scores
from cptlite.runs.image_features import ImageReading, encode_images
from cptlite.runs.matching import find_task, match_tasks

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Choice",
    "ImagePrediction",
    "choose_tasks",
    "predict_cached",
    "predict_images",
]

Ranked = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Classes that one is chosen from, and what scores them.

    Attributes
    ----------
    task : str
        Id of their task.
    class_names : tuple of str
        C names.
    classifier : Classifier
    classes : slice
        Range of the task's classes among all of the classifier.
    columns : tuple of int, optional
        Of the range, C places in the order of the names; by default all of it.
    """

    task: str
    class_names: tuple[str, ...]
    classifier: Classifier
    classes: slice = field(default_factory=lambda: ALL)
    columns: tuple[int, ...] | None = None

    def scores(self, features: Tensor) -> Tensor:
        """From raw features (B, D), or of patches (B, M, D), to scores (B, C)."""
        scores = self.classifier.scores(features, self.classes)
        return scores if self.columns is None else scores[:, list(self.columns)]

    def ranked(self, scores: Tensor, top: int) -> list[Ranked]:
        """Best classes of each image with their probability, from scores (B, C); of equal ones the first before."""
        order = scores.argsort(dim=-1, descending=True, stable=True)[:, :top]  # (B, top)
        likely = scores.float().softmax(dim=-1).gather(1, order)  # (B, top)
        return [
            tuple((self.class_names[place], value) for place, value in zip(places, values, strict=True))
            for places, values in zip(order.tolist(), likely.tolist(), strict=True)
        ]


class ImagePrediction(NamedTuple):
    """What is said of an image.

    Attributes
    ----------
    image : str
        Its path as it was found.
    tasks : dict of str to tuple of (str, float)
        By task id the likeliest classes, best first, with their probability: softmax of the task's scores.
    reason : str
        Why it could not be read, and nothing is said of it; empty if it could.
    label : (str, str) or None
        Task id and class of a cached image, as its dataset has them.
    """

    image: str
    tasks: dict[str, Ranked]
    reason: str = ""
    label: tuple[str, str] | None = None


def choose_tasks(stored: StoredClassifier, words: Sequence[str], classes: Sequence[str] = ()) -> list[Choice]:
    """Find what is to be chosen from.

    Parameters
    ----------
    stored : StoredClassifier
    words : sequence of str
        Ids or names of tasks; none for all.
    classes : sequence of str
        Of one task's classes those to choose from; none for all.

    Raises
    ------
    UsageError
        There is no such task, or it does not have such a class.
    """
    tasks = [find_task(stored.tasks, word) for word in words] if words else list(stored.tasks)
    unknown = [word for word, task in zip(words, tasks, strict=False) if task is None]
    if unknown:
        raise UsageError(f"unknown task {unknown[0]!r}: give one of {', '.join(task.id for task in stored.tasks)}")
    choices = []
    for task in {task.id: task for task in tasks if task is not None}.values():
        asked = replace(task, class_names=tuple(classes)) if classes else task
        (place,) = match_tasks([task], [asked])  # not among other tasks, which may have such classes too
        choices.append(
            Choice(
                task=task.id,
                class_names=asked.class_names,
                classifier=stored.classifier,
                classes=stored.classes_of(task.id),
                columns=place.columns,
            )
        )
    return choices


def predict_images(
    backbone: Backbone,
    choices: Sequence[Choice],
    sources: Iterable[Path | str | Image.Image],
    *,
    top: int,
    reading: ImageReading,
) -> Iterator[ImagePrediction]:
    """Predict images one after the other, as `encode_images` reads them.

    Parameters
    ----------
    backbone : Backbone
        Whose features the classifier takes.
    choices : sequence of Choice
    sources : iterable of path, or of PIL.Image.Image
    top : int
        Classes that are named of each task, at most.
    reading : ImageReading

    Yields
    ------
    ImagePrediction
        In the order of the sources; those that could not be read among them.

    Raises
    ------
    CptliteError
        The GPU's memory is full, or features or scores of an image are not finite.
    """
    for batch in encode_images(backbone, sources, reading):
        features = batch.features
        names = [name for name, reason in zip(batch.images, batch.reasons, strict=True) if not reason]
        _check_sound(names, sound_features(features), "features that are finite and not all 0")
        ranked = iter(_rank(choices, features, top, names))
        for name, reason in zip(batch.images, batch.reasons, strict=True):
            yield ImagePrediction(name, {} if reason else next(ranked), reason)


def predict_cached(
    cache: FeatureCache, split: str, choices: Sequence[Choice], *, top: int, patches: bool, device: torch.device
) -> Iterator[ImagePrediction]:
    """Predict the rows of a split of a cached dataset, in their order; arguments are as of `predict_images`.

    Raises
    ------
    DataError
        There are no such rows.
    CptliteError
        Features or scores of a row are not finite.
    """
    paths, labels, tasks = cache.paths(split), cache.labels(split), cache.row_tasks(split)
    check_classes(cache, split, labels, tasks)
    rows = np.arange(cache.num_rows(split))
    if not len(rows):
        raise DataError(f"{cache.path} has no {split} rows: give another --split, or another --dataset")
    for here, chunk in feature_chunks(cache, split, rows, patches=patches):
        features = torch.from_numpy(chunk).to(device)
        check_features(cache, split, rows[here], sound_features(features))
        said = _rank(choices, features, top, paths[here])
        for row, of_image in zip(rows[here], said, strict=True):
            task = cache.tasks[tasks[row]]
            yield ImagePrediction(paths[row], of_image, label=(task.id, task.class_names[labels[row]]))


@torch.no_grad()
def _rank(choices: Sequence[Choice], features: Tensor, top: int, names: Sequence[str]) -> list[dict[str, Ranked]]:
    """Best classes of every task, of each image of features (B, ...)."""
    if not len(features):
        return []
    said: list[dict[str, Ranked]] = [{} for _ in names]
    for choice in choices:
        scores = choice.scores(features)  # (B, C)
        _check_sound(names, sound_scores(scores), "finite scores")
        for of_image, ranked in zip(said, choice.ranked(scores, top), strict=True):
            of_image[choice.task] = ranked
    return said


def _check_sound(names: Sequence[str], sound: Tensor, wanted: str) -> None:
    if not bool(sound.all()):
        name = names[int(sound.logical_not().nonzero()[0, 0])]
        raise CptliteError(
            f"wanted {wanted}, got others for the image {shown(name)}: give --precision float32; if that does not "
            f"help, the weights of the backbone or of the classifier are damaged"
        )
