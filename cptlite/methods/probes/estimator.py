"""What the probes share: scikit-learn estimators whose arithmetic is one function on the rows of one task.

`FeatureClassifier.learn` does the work on tensors; `FeatureClassifier.fit` checks arrays and calls it, and so does
`cptlite.methods.probes.per_task`, once a task.

Axes: C classes of one task, N rows, V views, M validation rows, B images, D joint dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from cptlite.classifiers import Classifier, LinearClassifier
from cptlite.errors import UsageError
from cptlite.methods.probes.choosing import Choosing

__all__ = ["LOGIT_SCALE", "FeatureClassifier", "Fitted", "TaskRows", "TextClassifier"]

LOGIT_SCALE = math.log(100)  # where OpenAI's checkpoints end, all of them
FLOATS = (np.float32, np.float64)


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """One task's training and validation rows.

    Attributes
    ----------
    id : str
    num_classes : int
        C.
    x : Tensor of shape (N, V, D)
        Raw training features; view 0 is the plain one.
    y : Tensor of shape (N,), int64
        Class within the task.
    x_val, y_val : Tensor of shape (M, D) and (M,)
        Raw features of view 0; M may be 0.
    text : Tensor of shape (C, D), optional
        Unit-length zero-shot weights.
    raw_text : Tensor of shape (C, D), optional
        Text features as they come out of the encoder, averaged over a class's texts.
    projection : (Tensor of shape (I, D), Tensor of shape (D,) or None), optional
        Of the image tower, matrix and bias, for an estimator whose features are those before it.
    logit_scale : float
        The *log* of CLIP's factor on the cosines.
    """

    id: str = ""
    num_classes: int
    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    text: Tensor | None = None
    raw_text: Tensor | None = None
    projection: tuple[Tensor, Tensor | None] | None = None
    logit_scale: float = LOGIT_SCALE

    @cached_property
    def units(self) -> Tensor:
        """Training features of unit length, (N, V, D)."""
        return F.normalize(self.x, dim=-1)

    @cached_property
    def units_val(self) -> Tensor:
        """Validation features of unit length, (M, D)."""
        return F.normalize(self.x_val, dim=-1)

    def all_views(self) -> tuple[Tensor, Tensor]:
        """Every view as a row of its own: features (N * V, D), unit length, and classes (N * V,)."""
        return self.units.flatten(0, 1), self.y.repeat_interleave(self.x.shape[1])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What an estimator makes of the rows of one task.

    Attributes
    ----------
    classifier : Classifier
        Over the task's C classes.
    num_parameters : int
        Numbers learned.
    choices : dict of str to float
        Numbers chosen on validation rows.
    """

    classifier: Any
    num_parameters: int = 0
    choices: dict[str, float] = field(default_factory=dict)


class FeatureClassifier(Choosing, ClassifierMixin, BaseEstimator, ABC):
    """A classifier of cached image features.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
    classifier_ : Classifier
        Scores raw features, as in `cptlite.methods.base`.
    choices_ : dict of str to float
        Numbers chosen on validation rows.
    n_features_in_ : int
        D.
    """

    least_classes = 1
    needs_text = False
    needs_raw_text = False
    """Whether it reads the text features' lengths too."""

    @abstractmethod
    def learn(self, rows: TaskRows, generator: torch.Generator | None) -> Fitted:
        """Fit the rows of one task; nothing is kept in the estimator.

        Draws come from a generator of the CPU; None is PyTorch's global one.
        """

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None) -> Self:
        """Learn from labelled rows, on the CPU.

        Parameters
        ----------
        X : array-like of shape (N, D), or ndarray of shape (N, V, D) with V views of each image
            Raw features; view 0 is the plain one.
        y : array-like of shape (N,)
            Labels of any kind.
        X_val, y_val : array-like of shape (M, D) and (M,), optional
            Rows to choose hyper-parameters on; without them those given to the constructor hold.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            What every estimator of scikit-learn refuses; labels without a class (as `UsageError`).
        """
        views = np.asarray(X) if getattr(X, "ndim", 2) == 3 else None
        plain, y = validate_data(self, X if views is None else views[:, 0], y, dtype=FLOATS)
        check_classification_targets(y)
        x = plain[:, None] if views is None else check_array(views, dtype=plain.dtype, allow_nd=True)
        self.classes_ = self._find_classes(y)
        if len(self.classes_) < self.least_classes:
            raise UsageError(
                f"{type(self).__name__} wants rows of at least {self.least_classes} classes, "
                f"got those of {len(self.classes_)} class: give more rows"
            )
        x_val, places_val = self._validation_rows(X_val, y_val, plain.dtype)
        rows = TaskRows(
            num_classes=len(self.classes_),
            x=torch.tensor(x),  # a copy: PyTorch warns of memory it may not write to
            y=self._encode(y),
            x_val=x_val,
            y_val=places_val,
        )
        fitted = self.learn(self._with_text(rows), self._new_generator())
        self.classifier_, self.choices_ = fitted.classifier, fitted.choices
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Score raw features.

        Parameters
        ----------
        X : array-like of shape (B, D)

        Returns
        -------
        ndarray of shape (B, C)
            For two classes of shape (B,): how far the second is ahead, as scikit-learn has it.
        """
        scores = self._scores(X)
        return scores[:, -1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the scores, by class: (B, D) to (B, C)."""
        return torch.from_numpy(self._scores(X)).softmax(dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Label of the highest score of each row, (B, D) to (B,)."""
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    @staticmethod
    def join(parts: Sequence[Any]) -> Classifier:
        """One classifier of all tasks, from those of each in order."""
        return LinearClassifier.join(parts)

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        x = validate_data(self, X, dtype=FLOATS, reset=False)
        with torch.no_grad():
            return self.classifier_.scores(torch.tensor(x)).numpy()

    def _new_generator(self) -> torch.Generator | None:
        """Make PyTorch's generator of ``random_state``, where the estimator has one."""
        state = getattr(self, "random_state", None)
        if state is None:
            return None
        return torch.Generator().manual_seed(int(check_random_state(state).randint(2**31 - 1)))

    def _find_classes(self, y: np.ndarray) -> np.ndarray:
        return np.unique(y)

    def _with_text(self, rows: TaskRows) -> TaskRows:
        return rows

    def _encode(self, labels: np.ndarray) -> Tensor:
        """Position of each label in `classes_`, (N,)."""
        order = np.argsort(self.classes_)
        places = np.searchsorted(self.classes_, labels, sorter=order).clip(max=len(order) - 1)
        found = order[places]
        strange = np.unique(labels[self.classes_[found] != labels])
        if len(strange):
            raise UsageError(f"wanted labels among the {len(order)} classes, got {strange[0]!r}: leave its rows out")
        return torch.from_numpy(found)

    def _validation_rows(self, X_val: Any, y_val: Any, dtype: np.dtype) -> tuple[Tensor, Tensor]:
        if (X_val is None) != (y_val is None):
            raise UsageError("wanted both X_val and y_val or neither, got one of them: give the other too")
        if X_val is None:
            return torch.tensor(np.empty((0, self.n_features_in_), dtype)), torch.empty(0).long()
        plain = np.asarray(X_val)[:, 0] if getattr(X_val, "ndim", 2) == 3 else X_val
        x, y = validate_data(self, plain, y_val, dtype=dtype, reset=False)
        return torch.tensor(x), self._encode(y)


class TextClassifier(FeatureClassifier):
    """A classifier of image features that builds on the class weights of the text encoder.

    scikit-learn's estimator checks make up (X, y) of any width and number of classes, for which one array of
    ``text_weights`` cannot fit; the tests run them on subclasses that take class means for text.

    Parameters
    ----------
    text_weights : array-like of shape (C, D)
        Zero-shot weights, one row a class, of any length; they are normalised, but for an estimator that reads their
        lengths.
    classes : array-like of shape (C,), optional
        Label of each row of ``text_weights``; by default the labels in ``y``, sorted.
    logit_scale : float
        The *log* of CLIP's factor on the cosines.
    """

    needs_text = True

    def __init__(self, text_weights: Any = None, classes: Any = None, logit_scale: float = LOGIT_SCALE) -> None:
        self.text_weights = text_weights
        self.classes = classes
        self.logit_scale = logit_scale

    def _find_classes(self, y: np.ndarray) -> np.ndarray:
        return np.unique(y) if self.classes is None else np.asarray(self.classes)

    def _with_text(self, rows: TaskRows) -> TaskRows:
        weights = self._text(rows).to(rows.x.dtype)
        raw_text = weights if self.needs_raw_text else None
        return replace(rows, text=F.normalize(weights, dim=-1), raw_text=raw_text, logit_scale=self.logit_scale)

    def _joint_dim(self, rows: TaskRows) -> int:
        return rows.x.shape[-1]

    def _text(self, rows: TaskRows) -> Tensor:
        """Text weights (C, D), of any length."""
        wanted = (rows.num_classes, self._joint_dim(rows))
        got = np.shape(self.text_weights) if self.text_weights is not None else "none"
        if got != wanted:
            raise UsageError(
                f"{type(self).__name__} wants text_weights of shape {wanted} (classes, features), got {got}: "
                f"give one row a class, and their labels as classes where y lacks some"
            )
        return torch.tensor(check_array(self.text_weights, dtype=FLOATS))
