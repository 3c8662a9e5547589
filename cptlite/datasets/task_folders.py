"""Reading a dataset of several tasks as Fashion-20 lies: ``images/<task>/<class>/``.

``task_info.csv`` is tab separated with a header; its columns are id, task name, task description and
the class names, separated by commas. Task folders are numbered as its rows, class folders as the names
of a row, both from 0.
"""

from __future__ import annotations

from pathlib import Path

from cptlite.datasets.class_folders import LeftOut, images_in
from cptlite.datasets.drafts import Draft, Place, TaskDraft
from cptlite.datasets.partition import DEFAULT_SEED, partition
from cptlite.datasets.text_files import read_lines, shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = ["read_task_folders"]


def read_task_folders(place: Place) -> Draft:
    """Read every task and split each of its classes 50/20/30.

    Raises
    ------
    DataError
        A row of ``task_info.csv`` of another form, or a class without images.
    """
    path = place.folder / "task_info.csv"
    tasks = _tasks(path)
    seed = place.layout.options.get("seed", DEFAULT_SEED)
    rows: dict[str, list[tuple[str, int, int]]] = {split: [] for split in SPLITS}
    left_out = LeftOut()
    for task in tasks:
        parts = partition(_task_images(place, task, left_out), seed)
        for split, by_class in parts.items():
            for folder, images in by_class.items():
                label = int(folder.rpartition("/")[2])
                rows[split].extend((image, label, task.number) for image in images)
    return Draft(source=path, tasks=tasks, rows=rows, warnings=left_out.warnings())


def _tasks(path: Path) -> tuple[TaskDraft, ...]:
    """One task for each row below the header."""
    tasks: list[TaskDraft] = []
    for number, line in read_lines(path)[1:]:
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 4 or not columns[1]:
            raise DataError(
                f"{shown(path)}, line {number}: wanted four columns separated by tabs (id, task_name, "
                f"task_desc, labels), got {line!r}; correct the line"
            )
        names = tuple(name.strip() for name in columns[3].split(","))
        tasks.append(TaskDraft(class_names=names, number=len(tasks), name=columns[1]))
    if not tasks:
        raise DataError(f"{shown(path)}: wanted a header and one line per task, got none; fill it in")
    return tuple(tasks)


def _task_images(place: Place, task: TaskDraft, left_out: LeftOut) -> dict[str, list[str]]:
    """Images of each class folder of a task, by ``task/class``."""
    images = {}
    for label, name in enumerate(task.class_names):
        key = f"{task.number}/{label}"
        folder = place.images / key
        images[key] = images_in(folder, f"{key}/", left_out) if folder.is_dir() else []
        if not images[key]:
            raise DataError(
                f"{shown(folder)}: wanted the images of class {name!r} of task {task.name!r}, found none; "
                "add them, or correct task_info.csv"
            )
    return images
