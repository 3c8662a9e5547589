"""What a dataset is once it has been read from disk: tasks, and rows of image paths with labels.

Axes: N rows of one split, T tasks of the dataset, K_t classes of task t.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["METRICS", "SPLITS", "Dataset", "Rows", "Task"]

SPLITS = ("train", "val", "test")
BLOCK = 4096  # rows that are written as JSON together
METRICS = ("acc1", "mean_per_class_recall")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task: its words, its classes and how it is scored.

    Attributes
    ----------
    id : str
        Unique name, ``"dtd"`` or, in a dataset of several tasks, ``"fashion20/pants-type"``.
    name : str
        The words given to SoftCPT's meta network, ``"texture"``.
    class_names : tuple of str
        Names in label order.
    template : str
        Zero-shot prompt with one ``{}`` for the class name.
    metric : str
        One of `METRICS`: the one the paper reports for this task.
    """

    id: str
    name: str
    class_names: tuple[str, ...]
    template: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one split.

    Attributes
    ----------
    paths : tuple of str
        N image paths relative to the dataset's image folder, with forward slashes.
    labels : ndarray of shape (N,), int32
        Class within the row's task.
    tasks : ndarray of shape (N,), int32
        Index of the row's task among the dataset's tasks.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    tasks: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset found on disk.

    Attributes
    ----------
    name : str
        Catalogue name, or the one made from a user's folder, CSV or manifest.
    image_root : Path
        Folder the paths of the rows are relative to.
    tasks : tuple of Task
        At least one.
    splits : mapping of str to Rows
        Keys are those of `SPLITS`; a split the dataset lacks has no rows.
    notes : tuple of str
        How it was read where there was a choice, a sentence each: the CSV's separator, what was held out.
    warnings : tuple of str
        What was left out, is doubled or lacks rows, counted in a sentence each; ``--strict`` makes it an error.
    """

    name: str
    image_root: Path
    tasks: tuple[Task, ...]
    splits: Mapping[str, Rows]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def split_sha256(self) -> str:
        """Hex digest over tasks and rows: equal exactly when the labelled rows are the same.

        It is that of ``{"tasks": [[id, [class, ...]], ...], "splits": {split: [paths, labels, tasks], ...}}`` as JSON
        without spaces, which is never in memory whole.
        """
        digest = hashlib.sha256()
        tasks = _json([[task.id, list(task.class_names)] for task in self.tasks])
        digest.update(f'{{"tasks":{tasks},"splits":{{'.encode())
        for place, (name, rows) in enumerate(sorted(self.splits.items())):
            digest.update(f"{',' if place else ''}{_json(name)}:[".encode())
            _add_list(digest, rows.paths)
            for numbers in (rows.labels, rows.tasks):
                digest.update(b",")
                _add_list(digest, numbers)
            digest.update(b"]")
        digest.update(b"}}")
        return digest.hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _add_list(digest: Any, values: Sequence[str] | np.ndarray) -> None:
    """Add values to a digest as a list in JSON."""
    digest.update(b"[")
    for start in range(0, len(values), BLOCK):
        part = values[start : start + BLOCK]
        text = _json(part.tolist() if isinstance(part, np.ndarray) else part)
        digest.update(f"{',' if start else ''}{text[1:-1]}".encode())
    digest.update(b"]")
