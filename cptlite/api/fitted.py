"""What was fitted: images or raw features to scores and names, test rows to metrics; it can be pickled.

Axes: K classes of all tasks in task-major order, C classes of those asked for, B images, M patches of an image, D joint
dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.classifiers import (
    BackboneFacts,
    Classifier,
    LinearClassifier,
    StoredClassifier,
    pack_classifier,
    unpack_classifier,
)
from cptlite.config import RunConfig
from cptlite.datasets.images import quiet_pillow
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import Task
from cptlite.errors import DataError, UsageError
from cptlite.runs.image_features import ImageReading, encode_images
from cptlite.runs.load import FinishedRun, Towers, check_backbone
from cptlite.runs.reevaluate import predict_caches
from cptlite.text.encoder import TextEncoder

__all__ = ["FittedClassifier", "tasks_of"]


class FittedClassifier:
    """The half of an estimator that needs no training rows.

    Attributes
    ----------
    stored_ : StoredClassifier
        What the properties below are read from.
    config_ : RunConfig
        All options, resolved.
    backbone : Backbone, optional
        Encodes images; where there is none, it is loaded.
    """

    stored_: StoredClassifier
    config_: RunConfig
    backbone: Backbone | None = None
    _run: FinishedRun | None = None  # where it was read from a folder
    _towers: Towers | None = None

    def evaluate(self, caches: Sequence[FeatureCache]) -> dict[str, dict[str, Any]]:
        """Score on the test rows of every task; reads them anew with each call.

        Parameters
        ----------
        caches : sequence of FeatureCache
            Of the tasks fitted or some of them, or of other images of their classes (domain shift): all of a task's
            classes or some, in any order. A row is scored over the classes of its own task.

        Returns
        -------
        dict of str to dict
            By task id: ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts), ``rows``,
            and by class in label order ``classes`` (names) and ``recall``; ``held_out`` of a task that was, and
            ``base``, ``new``, ``harmonic`` and ``generalised`` of one with new classes.

        Raises
        ------
        UsageError
            A task has classes that were not fitted, or those of several fitted tasks.
        DataError
            Features of other weights, or a task without test rows.
        """
        predictions = predict_caches(self._fitted, self.config_, caches, self._device)
        return {each.task.id: each.scores() for each in predictions}

    def class_weights(self) -> np.ndarray:
        """Class weights of a linear classifier; a probe's biases are in ``classifier_.bias``.

        Returns
        -------
        ndarray of shape (K, D), float32
            In the order of ``class_names_``; of unit length where prompts or templates made them.

        Raises
        ------
        UsageError
            The method's scores are no products with fixed weights.
        """
        if not isinstance(self.classifier_, LinearClassifier):
            raise UsageError(
                f"{self.config_.method} has no fixed class weights, its scores depend on the image in other ways: "
                f"ask scores() for them, or classifier_.tensors() for what they are made of"
            )
        return self.classifier_.weights.cpu().numpy()

    @torch.no_grad()
    def scores(self, X: Any, task: str | None = None) -> np.ndarray:
        """Score images or raw features.

        Parameters
        ----------
        X : path, PIL.Image.Image or a list of them; or array-like of shape (B, D)
            Images are encoded by the backbone, which is loaded once where it is not there. Features are as cached, of
            any length; for a method of patch features these, (B, M, D), for one of those before the projection (B, I).
        task : str, optional
            Id of the task whose classes are asked for; by default all K, which compare within a task only.

        Returns
        -------
        ndarray of shape (B, C)

        Raises
        ------
        UsageError
            There is no such task, the features are of another shape, or the backbone is a path that was not given.
        DataError
            An image cannot be read, or the backbone is not there or not the one that made the features.
        """
        return self.classifier_.scores(self._features(X), self._fitted.classes_of(task)).cpu().numpy()

    def predict(self, X: Any, task: str | None = None) -> Any:
        """Name the best class of a task for each image, or for each row of raw features.

        Parameters
        ----------
        X, task
            As of `scores`; without a task, all are asked.

        Returns
        -------
        ndarray of shape (B,), or dict of str to ndarray
            Names; by task id where there are several tasks and none was named.
        """
        names = np.array(self.class_names_)
        return self._by_task(X, task, lambda id, scores: names[self._fitted.classes_of(id)][scores.argmax(axis=1)])

    def predict_proba(self, X: Any, task: str | None = None) -> Any:
        """Softmax of a task's scores for each image, or row of raw features: (B, C); else as `predict`."""
        return self._by_task(X, task, lambda id, scores: torch.from_numpy(scores).softmax(dim=1).numpy())

    def _by_task(self, X: Any, task: str | None, said: Callable[[str, np.ndarray], np.ndarray]) -> Any:
        """Tell of one task, or of all by their ids; images are encoded once."""
        features, tasks = self._features(X), [each.id for each in self.tasks_] if task is None else [task]
        found = {each: said(each, self.scores(features, each)) for each in tasks}
        return found[tasks[0]] if len(tasks) == 1 else found

    def __getstate__(self) -> dict[str, Any]:
        packed = {"stored_": pack_classifier(self.stored_)} if hasattr(self, "stored_") else {}
        return {**vars(self), "backbone": None, "_run": None, "_towers": None, **packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if hasattr(self, "stored_"):
            self.stored_ = unpack_classifier(state["stored_"], text=partial(_text_of_pickle, self.config_))

    @property
    def classifier_(self) -> Classifier:
        """Scores raw features."""
        return self._fitted.classifier

    @property
    def tasks_(self) -> tuple[Task, ...]:
        """Tasks in the order of the caches."""
        return self._fitted.tasks

    @property
    def class_names_(self) -> list[str]:
        """Names of all K classes."""
        return list(self._fitted.class_names)

    @property
    def backbone_(self) -> BackboneFacts:
        """Name, weights and preprocessing of the backbone that made the features."""
        return self._fitted.backbone

    @property
    def _fitted(self) -> StoredClassifier:
        if not hasattr(self, "stored_"):
            raise NotFittedError(f"wanted a fitted {type(self).__name__}, got one that is not: call fit first")
        return self.stored_

    @property
    def _device(self) -> torch.device:
        """Where the classifier is."""
        return next(iter(self.classifier_.tensors().values())).device

    def _features(self, X: Any) -> Tensor:
        if images := _images(X):
            return self._encode(images)
        features = (X if isinstance(X, Tensor) else torch.tensor(np.asarray(X))).float().to(self._device)
        axes = ("images", "patches") if self.config_.entry.needs_patches else ("images",)
        dim = self.backbone_.embed_dim
        if self.config_.entry.needs_pre_projection:
            dim = next(len(each) for name, each in self.classifier_.tensors().items() if name.endswith("matrix"))
        if features.ndim != len(axes) + 1 or features.shape[-1] != dim:
            raise UsageError(
                f"wanted features of shape ({', '.join(axes)}, {dim}), got "
                f"{tuple(features.shape)}: give one view of each image, as the backbone made it, or the images"
            )
        return features

    def _encode(self, images: Sequence[Any]) -> Tensor:
        """Raw features of images as the classifier takes them."""
        reading = ImageReading.of_run(self._fitted, getattr(self, "results_", None))
        features = []
        with quiet_pillow():
            for batch in encode_images(self._image_backbone(), images, reading):
                for name, reason in zip(batch.images, batch.reasons, strict=True):
                    if reason:
                        raise DataError(f"wanted an image at {shown(name)}, got {shown(reason)}: leave it out")
                features.append(batch.features)
        return torch.cat(features).to(self._device)

    def _image_backbone(self) -> Backbone:
        if self.backbone is not None:
            check_backbone(self.backbone, self.backbone_)
            return self.backbone
        if self._towers is None:
            run, device = self._run, str(self._device)
            self._towers = run.towers if run else _towers_of_pickle(self.config_, self.backbone_, device)
        return self._towers.images(self.backbone_)


def _images(X: Any) -> list[Any]:
    """Images that were given as paths or by Pillow, one or a list; empty where it is something else."""
    from PIL import Image

    kinds = (str, Path, Image.Image)
    many = list(X) if isinstance(X, list | tuple) else [X]
    return many if all(isinstance(each, kinds) for each in many) else []


def _text_of_pickle(config: RunConfig, facts: BackboneFacts) -> TextEncoder:
    """Load the text encoder that a pickle names, which is trusted as a pickle is."""
    return _towers_of_pickle(config, facts, "cpu").text(facts)


def _towers_of_pickle(config: RunConfig, facts: BackboneFacts, device: str) -> Towers:
    return Towers.of(config, "a pickle", given=facts.name, device=device)


def tasks_of(caches: Sequence[FeatureCache], backbone: BackboneFacts) -> tuple[Task, ...]:
    """Tasks of some caches, if they are of the backbone."""
    for cache in caches:
        cache.check({"weights_sha256": backbone.weights_sha256})
    return tuple(task for cache in caches for task in cache.tasks)
