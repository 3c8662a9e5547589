"""An estimator of one task as a method of many: fitted on each task's rows on its own, and joined.

Axes: T tasks, K classes of all tasks, C classes of one task, N rows, V views, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows, Learned, Probe, Problem
from cptlite.methods.options import MethodOptions
from cptlite.methods.probes.estimator import FeatureClassifier, TaskRows
from cptlite.methods.templates import mean_text_features, zero_shot_weights

__all__ = ["PerTask", "split_tasks"]


class PerTask(Probe):
    """One estimator a task.

    Parameters
    ----------
    name : str
        Of the method, for messages.
    estimator : callable
        Makes an estimator that is not fitted, from the options by name.
    options : MethodOptions
        ``templates`` and ``descriptions`` among them are those of the text weights; ``supports`` say whose rows the
        training rows are.
    """

    def __init__(self, name: str, estimator: Callable[..., FeatureClassifier], options: MethodOptions) -> None:
        values = asdict(options)
        self.name = name
        self.texts = {key: values.pop(key) for key in ("templates", "descriptions") if key in values}
        values.pop("supports", None)
        self.estimator = estimator(**values)

    @property
    def unchosen(self) -> str:
        """What the estimator takes without validation rows; empty if it chooses nothing."""
        return self.estimator.unchosen if self.estimator.chooses else ""

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows, generator: torch.Generator) -> Learned:
        """Fit every task's estimator on its rows.

        Raises
        ------
        DataError
            A task lacks training rows of enough classes.
        """
        text = zero_shot_weights(problem, **self.texts) if self.estimator.needs_text else None  # (K, D)
        raw_text = mean_text_features(problem, **self.texts) if self.estimator.needs_raw_text else None
        fitted, choices = [], {}
        for rows in split_tasks(problem, train, val, text, raw_text):
            self._check(rows)
            fitted.append(self.estimator.learn(rows, generator))
            if fitted[-1].choices:
                choices[rows.id] = fitted[-1].choices
        return Learned(
            classifier=self.estimator.join([each.classifier for each in fitted]),
            num_parameters=sum(each.num_parameters for each in fitted),
            choices=choices,
        )

    def _check(self, rows: TaskRows) -> None:
        present = len(rows.y.unique())
        if present < self.estimator.least_classes:
            raise DataError(
                f"{self.name} wants training rows of at least two classes of task {rows.id!r}, found those of "
                f"{present}: cache more, or use --method prototype"
            )


def split_tasks(
    problem: Problem,
    train: FewShotRows,
    val: FewShotRows,
    text: Tensor | None = None,
    raw_text: Tensor | None = None,
) -> Iterator[TaskRows]:
    """Rows of each task, in order.

    Parameters
    ----------
    problem : Problem
    train, val : FewShotRows
    text : Tensor of shape (K, D), optional
        Unit-length zero-shot weights of all classes.
    raw_text : Tensor of shape (K, D), optional
        Text features of all classes as they come out of the encoder, averaged over a class's texts.
    """
    for task, (start, stop) in zip(problem.tasks, problem.class_ranges, strict=True):
        own, own_val = (rows.of_classes(start, stop) for rows in (train, val))
        yield TaskRows(
            id=task.id,
            num_classes=stop - start,
            x=own.features.float(),
            y=own.labels,
            x_val=own_val.features[:, 0].float(),
            y_val=own_val.labels,
            text=None if text is None else text[start:stop],
            raw_text=None if raw_text is None else raw_text[start:stop],
            projection=problem.projection,
            logit_scale=problem.text.tower.logit_scale,
        )
