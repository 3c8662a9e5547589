"""A classifier together with what its scores are of: tasks, and the backbone whose features it takes.

Axes: K classes of all tasks in task-major order, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cptlite.backbones.names import backbone_slug
from cptlite.classifiers.base import ALL, Classifier
from cptlite.datasets.types import Task
from cptlite.errors import UsageError

if TYPE_CHECKING:
    from cptlite.backbones import Backbone

__all__ = ["BackboneFacts", "StoredClassifier"]


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """The backbone whose features a classifier scores.

    Attributes
    ----------
    name : str
        The name that loads it.
    weights_sha256, precision : str
    embed_dim : int
        D.
    preprocess : mapping
        The backbone's ``preprocess_spec``.
    """

    name: str
    weights_sha256: str
    precision: str
    embed_dim: int
    preprocess: Mapping[str, Any]

    @property
    def slug(self) -> str:
        """Name of the folder of its caches."""
        return backbone_slug(self.name)

    @classmethod
    def of(cls, backbone: Backbone) -> BackboneFacts:
        """Facts of a loaded backbone."""
        return cls(
            name=backbone.name,
            weights_sha256=backbone.weights_sha256,
            precision=backbone.precision,
            embed_dim=backbone.embed_dim,
            preprocess=backbone.preprocess_spec,
        )


@dataclass(frozen=True, kw_only=True)
class StoredClassifier:
    """A classifier and what its scores are of.

    Attributes
    ----------
    classifier : Classifier
    tasks : tuple of Task
        Their class names, one task after the other, are the names of the K classes.
    backbone : BackboneFacts
    """

    classifier: Classifier
    tasks: tuple[Task, ...]
    backbone: BackboneFacts

    @property
    def class_names(self) -> tuple[str, ...]:
        """All K class names, task-major."""
        return tuple(name for task in self.tasks for name in task.class_names)

    def classes_of(self, task: str | None) -> slice:
        """Range of a task's classes among all K, by its id; None for all.

        Raises
        ------
        UsageError
            There is no such task.
        """
        if task is None:
            return ALL
        start = 0
        for each in self.tasks:
            stop = start + len(each.class_names)
            if each.id == task:
                return slice(start, stop)
            start = stop
        raise UsageError(f"unknown task {task!r}: give one of {', '.join(each.id for each in self.tasks)}")
