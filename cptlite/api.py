"""Every method from Python, in scikit-learn's manner: fit on cached features in memory, evaluate, read off the weights.

Axes: K classes of all tasks in task-major order, C classes of those asked for, B images, M patches of an image, D joint
dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
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
from cptlite.config import OWN_ROWS, RunConfig, check_names, known_options, resolve_config
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.methods.table import find_method
from cptlite.runs.evaluate import evaluate
from cptlite.runs.execute import learn_in_memory
from cptlite.runs.learn import OnEpoch
from cptlite.runs.load import read_run, text_of

__all__ = ["FewShotClassifier", "load_run"]

SETTLED = ("suite", "datasets", "device", "precision")
"""Fields of a configuration that lie in backbone and caches, and are no options."""


class FewShotClassifier(BaseEstimator):
    """One method, fitted to the tasks of some caches together.

    The same caches, method and options give the same bytes as ``cptlite train``; nothing is written. A clone made by
    scikit-learn shares the backbone. A pickle leaves it out, since scores need none, but for ``cocoop``'s, whose
    pickle loads it again by its name.

    Parameters
    ----------
    method : str
        As ``--method``: ``"softcpt"``, ``"linear-probe"``, ...
    backbone : Backbone, optional
        The one that made the features; its device and precision are used. Only `fit` needs it.
    **options
        What ``cptlite train --method NAME --help`` lists, such as ``shots=16, seed=1, epochs=50, strength=4.0``; the
        others take the method's defaults.

    Attributes
    ----------
    stored_ : StoredClassifier
        What the properties below are read from.
    choices_ : dict of str to dict
        Numbers chosen on validation rows, by task id.
    num_parameters_ : int
        Numbers learned.
    config_ : RunConfig
        All options, resolved.
    results_ : dict
        What ``results.json`` holds, of a run that `load_run` read.

    Raises
    ------
    UsageError
        Unknown method, or an option that it does not have.
    """

    def __init__(self, method: str, backbone: Backbone | None = None, **options: Any) -> None:
        _check_options(method, options)
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
            A value out of range, more shots than there are, or no backbone.
        DataError
            Features of other weights, or rows the method needs are missing.
        """
        if self.backbone is None:
            raise UsageError(
                "wanted the backbone that made the features, got none: give it to the constructor, or by "
                "set_params(backbone=cptlite.load_backbone(...))"
            )
        config = self._configure(self.backbone, caches)
        facts = BackboneFacts.of(self.backbone)
        tasks = _tasks(caches, facts)
        learned = learn_in_memory(config, self.backbone, caches, on_epoch)
        self.config_ = config
        self.stored_ = StoredClassifier(classifier=learned.classifier, tasks=tasks, backbone=facts)
        self.choices_, self.num_parameters_ = learned.choices, learned.num_parameters
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
        tasks = _tasks(caches, self.backbone_)
        if [(task.id, task.class_names) for task in tasks] != [(task.id, task.class_names) for task in self.tasks_]:
            raise UsageError(
                f"wanted caches of the tasks fitted ({_listed(self.tasks_)}) with their classes, got those of "
                f"{_listed(tasks)}: give the caches that fit was given"
            )
        return evaluate(self.classifier_, caches, self._device, patches=self.config_.entry.needs_patches)

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
                f"{self.method} has no fixed class weights, its scores depend on the image in other ways: "
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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return method, backbone and the options that were given, as the constructor takes them."""
        return {"method": self.method, "backbone": self.backbone, **self.options}

    def set_params(self, **params: Any) -> Self:
        """Change what the constructor took; another method keeps the options given so far, if it has them."""
        method = params.pop("method", self.method)
        backbone = params.pop("backbone", self.backbone)
        options = {**self.options, **params}
        _check_options(method, options)
        self.method, self.backbone, self.options = method, backbone, options
        return self

    def __sklearn_clone__(self) -> FewShotClassifier:
        return type(self)(self.method, self.backbone, **deepcopy(self.options))

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        backbone = "None" if self.backbone is None else f"<{self.backbone.name}>"
        words = [repr(self.method), f"backbone={backbone}"]
        return f"FewShotClassifier({', '.join(words + [f'{name}={value!r}' for name, value in self.options.items()])})"

    def __getstate__(self) -> dict[str, Any]:
        packed = {"stored_": pack_classifier(self.stored_)} if hasattr(self, "stored_") else {}
        return {**vars(self), "backbone": None, **packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if hasattr(self, "stored_"):
            self.stored_ = unpack_classifier(state["stored_"], text=partial(text_of, self.config_, "cpu"))

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

    def _configure(self, backbone: Backbone, caches: Sequence[FeatureCache]) -> RunConfig:
        """All options, resolved; those that lie in backbone and caches are taken from there."""
        names = tuple(cache.fingerprint.dataset for cache in caches)
        if not names:
            raise UsageError("wanted at least one cache to fit, got none: open some with cptlite.open_caches")
        settled = {
            "backbone": backbone.name,
            "datasets": names,
            "suite": "python",
            "device": str(backbone.device),
            "precision": backbone.precision,
        }
        return resolve_config({**self.options, **settled, "method": self.method})

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
        axes = ("images", "patches") if find_method(self.method).needs_patches else ("images",)
        if features.ndim != len(axes) + 1 or features.shape[-1] != self.backbone_.embed_dim:
            raise UsageError(
                f"wanted features of shape ({', '.join(axes)}, {self.backbone_.embed_dim}), got "
                f"{tuple(features.shape)}: give one view of each image, as the backbone made it"
            )
        return features


def load_run(folder: str | Path, *, device: str = "cpu") -> FewShotClassifier:
    """Read back a run that ``cptlite train`` finished: its scores are the same to the bit.

    Parameters
    ----------
    folder : str or Path
        The one that was named as written, with ``results.json`` in it.
    device : str
        Where scores are computed.

    Returns
    -------
    FewShotClassifier
        Fitted, without a backbone. No cache is opened, and the backbone is loaded only where a score encodes prompts
        (``cocoop``).

    Raises
    ------
    DataError
        There is no such run, it is not finished, or a file of it is damaged.
    """
    run = read_run(Path(folder), device=device)
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in run.config.to_json().items()}
    defaults = {each.name: each.default for _, each in known_options(run.config.entry) if each.name not in SETTLED}
    options: dict[str, Any] = {
        name: flat[name] for name, default in defaults.items() if name in OWN_ROWS or flat[name] != default
    }
    model = FewShotClassifier(run.config.method, **options)
    model.config_, model.stored_, model.results_ = run.config, run.stored, run.results
    model.choices_, model.num_parameters_ = run.results["choices"], run.results["parameters"]
    return model


def _check_options(method: str, options: dict[str, Any]) -> None:
    for name in (*SETTLED, "backbone"):
        if name in options:
            raise UsageError(f"backbone and caches settle {name}, got {options[name]!r}: leave it out")
    check_names(method, options)


def _tasks(caches: Sequence[FeatureCache], backbone: BackboneFacts) -> tuple[Task, ...]:
    """Tasks of some caches, if they are of the backbone."""
    for cache in caches:
        cache.check({"weights_sha256": backbone.weights_sha256})
    return tuple(task for cache in caches for task in cache.tasks)


def _listed(tasks: Sequence[Task]) -> str:
    return ", ".join(task.id for task in tasks) or "none"
