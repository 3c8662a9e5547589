"""From what a reader found to a checked `Dataset`.

Axes: N rows of one split, T tasks of the dataset, K_t classes of task t.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np

from cptlite.datasets.checks import counted, doubled_rows, short_classes
from cptlite.datasets.listed import DiskNames, check_path
from cptlite.datasets.specs import DatasetSpec, Layout, TaskWords
from cptlite.datasets.tables import near_matches
from cptlite.datasets.text_files import check_utf8, shown
from cptlite.datasets.types import SPLITS, Dataset, Rows, Task
from cptlite.errors import DataError, UsageError

__all__ = ["Draft", "Place", "TaskDraft", "build_dataset", "classes_to_draft", "text_key"]

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A layout at the folder it was found in.

    Attributes
    ----------
    name : str
        The dataset's name, for messages.
    folder : Path
        The dataset's folder.
    layout : Layout
        How the files lie in it.
    """

    name: str
    folder: Path
    layout: Layout

    @property
    def images(self) -> Path:
        """Folder the image paths are relative to."""
        return self.folder / self.layout.images

    @property
    def split_file(self) -> Path:
        """The split file; the first in sorted order when its name is a pattern."""
        assert self.layout.split is not None
        split = self.layout.split
        return self.folder / (min(glob(split, root_dir=self.folder), default=split) if "*" in split else split)


@dataclass(frozen=True, kw_only=True)
class TaskDraft:
    """A task as found on disk: the number its words are looked up by, its name and its classes."""

    class_names: tuple[str, ...]
    number: int = 0
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a reader found, before any check.

    Attributes
    ----------
    source : Path
        The file or folder messages name.
    tasks : tuple of TaskDraft
        At least one.
    rows : mapping of str to list of (path, label, task index)
        By split; a split that is not there has no rows.
    unique_names : bool
        False where the source itself gives two classes one name, as ImageNet's lists do.
    listed : bool
        Whether a list names the images: its paths may be spelled otherwise than on disk, doubled or missing.
    notes, warnings : tuple of str
        See `cptlite.datasets.types.Dataset`.
    """

    source: Path
    tasks: tuple[TaskDraft, ...]
    rows: Mapping[str, list[tuple[str, int, int]]]
    unique_names: bool = True
    listed: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def classes_to_draft(
    source: Path,
    class_names: Sequence[str],
    parts: Mapping[str, Mapping[str, Sequence[str]]],
) -> Draft:
    """Make a one-task draft of paths by split and class; labels follow ``class_names``."""
    rows = {
        split: [(path, label, 0) for label, name in enumerate(class_names) for path in by_class.get(name, ())]
        for split, by_class in parts.items()
    }
    task = TaskDraft(class_names=tuple(class_names))
    return Draft(source=source, tasks=(task,), rows=rows)


def text_key(name: str) -> str:
    """Return what of a class name reaches CLIP: underscores, spaces, case and two spellings of an accent are one."""
    return unicodedata.normalize("NFC", " ".join(name.replace("_", " ").split())).casefold()


def build_dataset(spec: DatasetSpec, place: Place, draft: Draft) -> Dataset:
    """Give a draft the words of its spec and check everything.

    Parameters
    ----------
    spec : DatasetSpec
        Supplies task names, templates and metrics.
    place : Place
        Supplies the image folder and better class names.
    draft : Draft
        What the reader found.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        No rows, one class only, an empty or a doubled class name, a path that leaves the folder.
    UsageError
        Words given for a class or a task that is not there.
    """
    if not any(draft.rows.values()):
        raise DataError(
            f"dataset {spec.name!r}: wanted images, found none in {shown(draft.source)}; add some, or see "
            f"`cptlite datasets {spec.name}` for the expected tree"
        )
    if place.layout is spec.layout:  # torchvision's renames know the full dataset, not a part of it
        _check_rename_keys(place, draft)
    tasks = _tasks(spec, place.layout.class_names, draft)
    for task in tasks:
        _check_classes(task, draft)
    disk = DiskNames(place.images) if draft.listed else None
    missing: list[str] = []
    splits = {split: _rows(spec.name, split, draft, disk, missing) for split in SPLITS}
    warnings = [*draft.warnings, *(doubled_rows(draft.rows) if draft.listed else ()), *short_classes(tasks, splits)]
    if missing:
        warnings.append(f"not in {shown(place.images)}: {counted(missing, 'listed image', 'listed images')}")
    return Dataset(
        name=spec.name,
        image_root=place.images,
        tasks=tasks,
        splits=splits,
        notes=draft.notes,
        warnings=tuple(warnings),
    )


def _tasks(spec: DatasetSpec, rename: Mapping[str, str], draft: Draft) -> tuple[Task, ...]:
    """Make the tasks, with the words of the spec."""
    if draft.tasks[0].name is None:
        names = (rename.get(name, name).strip() for name in draft.tasks[0].class_names)
        return (_task(spec, spec.name, spec.task_name, names, spec.tasks.get("0")),)
    for task in draft.tasks:
        check_utf8(task.name or "", draft.source)
    tails = _task_tails(draft.tasks)
    _check_task_keys(spec, tails)
    tasks = []
    for tail, task in zip(tails, draft.tasks, strict=True):
        words = spec.tasks.get(tail, spec.tasks.get(str(task.number)))
        names = (rename.get(name, name).strip() for name in task.class_names)
        task_name = CONTROL.sub(" ", (task.name or "").replace("_", " ")).strip() or tail
        tasks.append(_task(spec, f"{spec.name}/{tail}", task_name, names, words))
    return tuple(tasks)


def _task(spec: DatasetSpec, identity: str, name: str, class_names: Iterable[str], words: TaskWords | None) -> Task:
    """Make one task; its own words win over the dataset's."""
    words = words or TaskWords()
    return Task(
        id=identity,
        name=words.name or name,
        class_names=tuple(class_names),
        template=words.template or spec.template,
        metric=words.metric or spec.metric,
    )


def _task_tails(tasks: Sequence[TaskDraft]) -> list[str]:
    """Last parts of the task ids, from their names; a doubled one gets the task's number."""
    tails = [re.sub(r"\W+", "-", (task.name or "").replace("_", " ").lower()).strip("-") for task in tasks]
    return [
        tail if tail and tails.count(tail) == 1 else f"{tail or 'task'}-{task.number}"
        for tail, task in zip(tails, tasks, strict=True)
    ]


def _check_task_keys(spec: DatasetSpec, tails: Sequence[str]) -> None:
    """Refuse words for a task that is not there; a number may belong to the full dataset."""
    for key in spec.tasks:
        if key not in tails and not key.isdecimal():
            raise UsageError(
                f"dataset {spec.name!r}: wanted tasks among {', '.join(tails)}, got words for "
                f"{key!r}{near_matches(key, tails)}; correct the key"
            )


def _check_rename_keys(place: Place, draft: Draft) -> None:
    """Refuse a better name for a class that a user's folder does not have."""
    found = {name for task in draft.tasks for name in task.class_names}
    for key in place.layout.class_names.keys() - found:
        raise UsageError(
            f"dataset {place.name!r}: wanted class_names to rename classes of {shown(draft.source)}, got "
            f"{key!r}{near_matches(key, found)}; correct or remove it"
        )


def _check_classes(task: Task, draft: Draft) -> None:
    """Refuse one class only, empty names and names that read the same."""
    if len(task.class_names) < 2:
        raise DataError(
            f"task {task.id!r}: wanted at least two classes, found {len(task.class_names)} "
            f"({', '.join(map(repr, task.class_names))}) in {shown(draft.source)}; add another class"
        )
    seen: dict[str, str] = {}
    for label, name in enumerate(task.class_names):
        check_utf8(name, draft.source)
        if CONTROL.search(name):
            raise DataError(
                f"task {task.id!r}: wanted class names without control characters, got {name!r} in "
                f"{shown(draft.source)}; rename it"
            )
        key = text_key(name)
        if not key:
            raise DataError(
                f"task {task.id!r}: wanted a name for every class, class {label} has an empty one "
                f"({name!r}) in {shown(draft.source)}; name it"
            )
        if key in seen and draft.unique_names:
            raise DataError(
                f"task {task.id!r}: wanted distinct class names, got {seen[key]!r} and {name!r}, "
                f"which read the same in a prompt, in {shown(draft.source)}; rename one"
            )
        seen[key] = name


def _rows(name: str, split: str, draft: Draft, disk: DiskNames | None, missing: list[str]) -> Rows:
    """Turn one split's rows into columns, after checking every path; ``missing`` gathers those not on disk."""
    rows = draft.rows.get(split, [])
    paths = [path for path, _, _ in rows]
    for index, path in enumerate(paths):
        check_path(name, path, draft.source)
        found = path if disk is None else disk.find(path)
        if found is None:
            missing.append(path)
        else:
            paths[index] = found
    return Rows(
        paths=tuple(paths),
        labels=np.array([label for _, label, _ in rows], dtype=np.int32),
        tasks=np.array([task for _, _, task in rows], dtype=np.int32),
    )
