"""Every method from Python, in scikit-learn's manner: fit on cached features in memory, evaluate, read off the weights.

Axes: K classes of all tasks in task-major order, C classes of those asked for, B images, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from cptlite.backbones.clip import Backbone
from cptlite.cache import FeatureCache
from cptlite.classifiers import ALL, Classifier, LinearClassifier
from cptlite.config import TrainConfig
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.methods.table import find_method, resolve_config
from cptlite.runs.evaluate import evaluate
from cptlite.runs.execute import learn
from cptlite.runs.learn import OnEpoch

__all__ = ["FewShotClassifier"]


class FewShotClassifier:
    """One method, fitted to the tasks of some caches together.

    The same caches, method and options give the same bytes as ``cptlite train``; nothing is written.

    Parameters
    ----------
    method : str
        As ``--method``: ``"softcpt"``, ``"linear-probe"``, ...
    backbone : Backbone
        The one that made the features; its device and precision are used.
    **options
        Fields of `cptlite.config.TrainConfig`, such as ``shots=16, seed=1, epochs=50, variant="cata"``; the others
        take the method's defaults.

    Attributes
    ----------
    classifier_ : Classifier
    tasks_ : tuple of Task
        In the order of the caches.
    class_names_ : list of str
        Of all K classes.
    choices_ : dict of str to dict
        Numbers chosen on validation rows, by task id.
    num_parameters_ : int
        Numbers learned.
    config_ : TrainConfig
        All options, resolved.
    """

    def __init__(self, method: str, backbone: Backbone, **options: Any) -> None:
        self.method = method
        self.backbone = backbone
        self.options = options

    def fit(self, caches: Sequence[FeatureCache], *, on_epoch: OnEpoch | None = None) -> Self:
        """Draw the published few-shot rows, train on them and choose on validation rows.

        Parameters
        ----------
        caches : sequence of FeatureCache
            One for each dataset, in task order; see `cptlite.open_caches`.
        on_epoch : callable, optional
            Told the number of epochs done and the last one's mean loss.

        Returns
        -------
        self

        Raises
        ------
        UsageError
            Unknown method, variant or option, a value out of range, or more shots than there are.
        DataError
            Features of other weights, or rows the method needs are missing.
        """
        config, tasks, device = self._configure(caches), self._tasks(caches), self.backbone.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # our seed leaves the user's draws alone
            learned = learn(config, self.backbone, caches, on_epoch=on_epoch)
        self.config_, self.tasks_ = config, tasks
        self.class_names_ = [name for task in tasks for name in task.class_names]
        self.classifier_: Classifier = learned.classifier
        self.choices_, self.num_parameters_ = learned.choices, learned.parameters
        return self

    def evaluate(self, caches: Sequence[FeatureCache]) -> dict[str, dict[str, Any]]:
        """Score on the test rows of every task; reads them anew with each call.

        Parameters
        ----------
        caches : sequence of FeatureCache
            Of the tasks fitted, in order.

        Returns
        -------
        dict of str to dict
            By task id: ``acc1`` and ``mean_per_class_recall`` in [0, 1], ``metric`` (the one that counts) and ``rows``.
        """
        self._check_fitted()
        tasks = self._tasks(caches)
        if [(task.id, task.class_names) for task in tasks] != [(task.id, task.class_names) for task in self.tasks_]:
            raise UsageError(
                f"wanted caches of the tasks fitted ({_listed(self.tasks_)}) with their classes, got those of "
                f"{_listed(tasks)}: give the caches that fit was given"
            )
        return evaluate(self.classifier_, caches, self.backbone.device, local=self._takes_local)

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
        self._check_fitted()
        if not isinstance(self.classifier_, LinearClassifier):
            raise UsageError(
                f"{self.method} has no fixed class weights, its scores depend on the image in other ways: "
                f"ask scores() for them, or classifier_.arrays() for what they are made of"
            )
        return self.classifier_.weights.cpu().numpy()

    @torch.no_grad()
    def scores(self, X: Any, task: str | None = None) -> np.ndarray:
        """Score raw features.

        Parameters
        ----------
        X : array-like of shape (B, D)
            As cached, of any length; for a method of local features these, (B, M, D).
        task : str, optional
            Id of the task whose classes are asked for; by default all K, which compare within a task only.

        Returns
        -------
        ndarray of shape (B, C)
        """
        self._check_fitted()
        return self.classifier_.scores(self._features(X), self._classes(task)).cpu().numpy()

    def predict(self, X: Any, task: str | None = None) -> np.ndarray:
        """Name the best class of a task for each row of raw features, (B, D) to (B,); one task needs no naming."""
        self._check_fitted()
        if task is None and len(self.tasks_) > 1:
            raise UsageError(f"wanted the task to predict classes of, got none: give one of {_listed(self.tasks_)}")
        return np.array(self.class_names_)[self._classes(task)][self.scores(X, task).argmax(axis=1)]

    def _configure(self, caches: Sequence[FeatureCache]) -> TrainConfig:
        """All options, resolved; those that lie in backbone and caches are taken from there."""
        names = tuple(cache.fingerprint.dataset for cache in caches)
        if not names:
            raise UsageError("wanted at least one cache to fit, got none: open some with cptlite.open_caches")
        settled = {
            "backbone": self.backbone.name,
            "datasets": names,
            "suite": "python",
            "device": str(self.backbone.device),
            "precision": self.backbone.precision,
        }
        for name in settled:
            if name in self.options:
                raise UsageError(f"backbone and caches settle {name}, got {self.options[name]!r}: leave it out")
        return resolve_config({**self.options, **settled, "method": self.method})

    def _tasks(self, caches: Sequence[FeatureCache]) -> tuple[Task, ...]:
        """Tasks of some caches, if they are of the backbone."""
        for cache in caches:
            cache.check({"weights_sha256": self.backbone.weights_sha256})
        return tuple(task for cache in caches for task in cache.tasks)

    @property
    def _takes_local(self) -> bool:
        return find_method(self.method)[0].needs_local

    def _check_fitted(self) -> None:
        if not hasattr(self, "classifier_"):
            raise NotFittedError(f"wanted a fitted {type(self).__name__}, got one that is not: call fit first")

    def _classes(self, task: str | None) -> slice:
        """Place of a task's classes among all K."""
        start = 0
        for each in self.tasks_:
            stop = start + len(each.class_names)
            if each.id == task:
                return slice(start, stop)
            start = stop
        if task is None:
            return ALL
        raise UsageError(f"unknown task {task!r}: give one of {_listed(self.tasks_)}")

    def _features(self, X: Any) -> Tensor:
        features = (X if isinstance(X, Tensor) else torch.tensor(np.asarray(X))).float().to(self.backbone.device)
        axes = ("images", "places") if self._takes_local else ("images",)
        if features.ndim != len(axes) + 1 or features.shape[-1] != self.backbone.embed_dim:
            raise UsageError(
                f"wanted features of shape ({', '.join(axes)}, {self.backbone.embed_dim}), got "
                f"{tuple(features.shape)}: give one view of each image, as the backbone made it"
            )
        return features


def _listed(tasks: Sequence[Task]) -> str:
    return ", ".join(task.id for task in tasks) or "none"
