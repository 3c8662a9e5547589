"""What was fitted: raw features to scores and names, test rows to metrics; it can be pickled.

Axes: K classes of all tasks in task-major order, C classes of those asked for, B images, M patches of an image, D joint
dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

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
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.runs.load import text_of
from cptlite.runs.reevaluate import score_caches
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
    """

    stored_: StoredClassifier
    config_: RunConfig

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
        return score_caches(self._fitted, self.config_, caches, self._device)

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
        """Score raw features.

        Parameters
        ----------
        X : array-like of shape (B, D)
            As cached, of any length; for a method of patch features these, (B, M, D).
        task : str, optional
            Id of the task whose classes are asked for; by default all K, which compare within a task only.

        Returns
        -------
        ndarray of shape (B, C)
        """
        return self.classifier_.scores(self._features(X), self._fitted.classes_of(task)).cpu().numpy()

    def predict(self, X: Any, task: str | None = None) -> np.ndarray:
        """Name the best class of a task for each row of raw features, (B, D) to (B,); one task needs no naming."""
        task = self._one_task(task)
        return np.array(self.class_names_)[self._fitted.classes_of(task)][self.scores(X, task).argmax(axis=1)]

    def predict_proba(self, X: Any, task: str | None = None) -> np.ndarray:
        """Softmax of a task's scores for each row of raw features, (B, D) to (B, C); one task needs no naming."""
        scores = torch.from_numpy(self.scores(X, self._one_task(task)))
        return scores.softmax(dim=1).numpy()

    def __getstate__(self) -> dict[str, Any]:
        packed = {"stored_": pack_classifier(self.stored_)} if hasattr(self, "stored_") else {}
        return {**vars(self), "backbone": None, **packed}

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

    def _one_task(self, task: str | None) -> str | None:
        if task is None and len(self.tasks_) > 1:
            raise UsageError(f"wanted the task to predict classes of, got none: give one of {_listed(self.tasks_)}")
        return task

    def _features(self, X: Any) -> Tensor:
        features = (X if isinstance(X, Tensor) else torch.tensor(np.asarray(X))).float().to(self._device)
        axes = ("images", "patches") if self.config_.entry.needs_patches else ("images",)
        if features.ndim != len(axes) + 1 or features.shape[-1] != self.backbone_.embed_dim:
            raise UsageError(
                f"wanted features of shape ({', '.join(axes)}, {self.backbone_.embed_dim}), got "
                f"{tuple(features.shape)}: give one view of each image, as the backbone made it"
            )
        return features


def _text_of_pickle(config: RunConfig, facts: BackboneFacts) -> TextEncoder:
    """Load the text encoder that a pickle names, which is trusted as a pickle is."""
    return text_of(config, "cpu", facts.name, "a pickle", facts)


def tasks_of(caches: Sequence[FeatureCache], backbone: BackboneFacts) -> tuple[Task, ...]:
    """Tasks of some caches, if they are of the backbone."""
    for cache in caches:
        cache.check({"weights_sha256": backbone.weights_sha256})
    return tuple(task for cache in caches for task in cache.tasks)


def _listed(tasks: Sequence[Task]) -> str:
    return ", ".join(task.id for task in tasks) or "none"
