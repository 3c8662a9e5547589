"""Every method from Python, in scikit-learn's manner, and finished runs read back."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from sklearn.base import BaseEstimator

from cptlite.api.fitted import FittedClassifier, tasks_of
from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.classifiers import BackboneFacts, StoredClassifier
from cptlite.config import OWN_ROWS, RunConfig, check_names, known_options, resolve_config
from cptlite.errors import UsageError
from cptlite.runs.by_name import extend_classifier
from cptlite.runs.execute import learn_in_memory
from cptlite.runs.learn import OnEpoch
from cptlite.runs.load import read_run
from cptlite.runs.sources import pinned

__all__ = ["FewShotClassifier", "load_run"]

SETTLED = ("suite", "datasets", "device", "precision", "linear_backend")
"""Fields of a configuration that lie in backbone and caches, and are no options."""


class FewShotClassifier(FittedClassifier, BaseEstimator):
    """One method, fitted to the tasks of some caches together.

    The same caches, method and options give the same bytes as ``cptlite train``; nothing is written. A clone made by
    scikit-learn shares the backbone. A pickle leaves it out, since scores need none, but for ``cocoop``'s, whose
    pickle loads it again by its name.

    Parameters
    ----------
    method : str
        As ``--method``: ``"softcpt"``, ``"linear-probe"``, ...
    backbone : Backbone, optional
        The one that made the features; its device, precision and linear backend are used. Only `fit` needs it.
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
        tasks = tasks_of(caches, facts)
        learned = learn_in_memory(config, self.backbone, caches, on_epoch)
        self.config_ = config
        self.stored_ = StoredClassifier(classifier=learned.classifier, tasks=tasks, backbone=facts)
        self.choices_, self.num_parameters_ = learned.choices, learned.num_parameters
        return self

    def extend(self, task: str, classes: Sequence[str]) -> Self:
        """Make a model with further classes, whose weights come from their names, without any training.

        Parameters
        ----------
        task : str
            Id or name of a task; or the words of a new one, of a method that all tasks share.
        classes : sequence of str
            Names of the classes to add.

        Returns
        -------
        FewShotClassifier
            Another one, whose other classes have the weights they had; `results_` are still the run's.

        Raises
        ------
        UsageError
            The model was not read by `load_run`, or its method has no weights for such classes.
        DataError
            The backbone, or what was learned, is not there.
        """
        if self._run is None:
            raise UsageError("wanted a run that cptlite.load_run has read, got another model: train it into a folder")
        stored = extend_classifier(self._run, task, classes)
        model = copy(self)  # as a pickle is made, without what was read
        model.stored_, model._run = stored, replace(self._run, stored=stored)
        return model

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
            "linear_backend": backbone.linear_backend,
        }
        return pinned(resolve_config({**self.options, **settled, "method": self.method}))


def load_run(folder: str | Path, *, device: str = "cpu", backbone: str | None = None) -> FewShotClassifier:
    """Read back a run that ``cptlite train`` finished: its scores are the same to the bit.

    Parameters
    ----------
    folder : str or Path
        The one that was named as written, with ``results.json`` in it.
    device : str
        Where scores are computed.
    backbone : str, optional
        The checkpoint's path, of a run whose backbone is one; where it is never loaded, none is needed.

    Returns
    -------
    FewShotClassifier
        Fitted, without a backbone. No cache is opened, and the backbone is loaded only where a score encodes prompts
        (``cocoop``), images are asked for, or further classes.

    Raises
    ------
    DataError
        There is no such run, it is not finished, or a file of it is damaged.
    """
    run = read_run(Path(folder), device=device, backbone=backbone)
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in run.config.to_json().items()}
    defaults = {each.name: each.default for _, each in known_options(run.config.entry) if each.name not in SETTLED}
    options: dict[str, Any] = {
        name: flat[name] for name, default in defaults.items() if name in OWN_ROWS or flat[name] != default
    }
    model = FewShotClassifier(run.config.method, **options)
    model.config_, model.stored_, model.results_, model._run = run.config, run.stored, run.results, run
    model.choices_, model.num_parameters_ = run.results["choices"], run.results["parameters"]
    return model


def _check_options(method: str, options: dict[str, Any]) -> None:
    for name in (*SETTLED, "backbone"):
        if name in options:
            raise UsageError(f"backbone and caches settle {name}, got {options[name]!r}: leave it out")
    check_names(method, options)
