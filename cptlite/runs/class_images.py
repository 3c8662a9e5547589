"""Test images of a class that its run is most sure of, and those it gets most wrong, by its ``predictions.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cptlite.datasets import load_catalog
from cptlite.datasets.listed import check_path
from cptlite.datasets.locate import find_place
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import Task
from cptlite.errors import DataError, UsageError
from cptlite.files import read_file
from cptlite.options import did_you_mean
from cptlite.runs.files import PREDICTIONS
from cptlite.runs.load import FinishedRun
from cptlite.runs.matching import find_task, same_names
from cptlite.runs.predictions import PredictedRow, unpack_predictions

__all__ = ["MOST", "ClassImages", "find_class", "find_images_of", "need_task", "pick_images", "read_predicted"]

MOST = 8  # images of a kind


@dataclass(frozen=True, kw_only=True)
class ClassImages:
    """Test images of one class.

    Attributes
    ----------
    task, class_name : str
    count : int
        Of all there are.
    nearest : tuple of PredictedRow
        Those that are predicted right with the highest probability, the highest first.
    hardest : tuple of PredictedRow
        Those whose class has the lowest probability, the lowest first: where another class is predicted, the most that
        it can be by that one's and by the rank, since predictions have no more. None is among the nearest.
    """

    task: str
    class_name: str
    count: int
    nearest: tuple[PredictedRow, ...]
    hardest: tuple[PredictedRow, ...]


def find_class(tasks: Sequence[Task], name: str, word: str | None = None) -> tuple[Task, str]:
    """Find a class by its name, in any spelling, and its task.

    Parameters
    ----------
    tasks : sequence of Task
    name : str
    word : str, optional
        Id or name of the task.

    Raises
    ------
    UsageError
        There is no such task or class, or several tasks have it.
    """
    tasks = tasks if word is None else [need_task(tasks, word)]
    found = [(task, each) for task in tasks for each in task.class_names if same_names((each, name))]
    found = [(task, each) for task, each in found if each == name] or found
    if not found:
        raise UsageError(f"unknown class {name!r}: {did_you_mean(name, [n for t in tasks for n in t.class_names])}")
    if len(found) > 1:
        raise UsageError(
            f"wanted a class of one task, got {name!r} of several: give --task, one of "
            f"{', '.join(task.id for task, _ in found)}"
        )
    return found[0]


def need_task(tasks: Sequence[Task], word: str) -> Task:
    """Find a task by its id or name; a UsageError says that there is none."""
    task = find_task(tasks, word)
    if task is None:
        raise UsageError(f"unknown task {word!r}: give one of {', '.join(each.id for each in tasks)}")
    return task


def pick_images(run: FinishedRun, task: Task, class_name: str, most: int = MOST) -> ClassImages:
    """Pick the nearest and the hardest test images of a class from what the run predicted.

    Raises
    ------
    DataError
        The run kept no predictions, they are damaged, or there are none of this class.
    """
    rows = [row for row in read_predicted(run.folder) if (row.task, row.label) == (task.id, class_name)]
    if not rows:
        path = shown(run.folder / PREDICTIONS)
        raise DataError(f"wanted test images of class {class_name!r} in {path}, found none: give another class")
    rows.sort(key=lambda row: row.own_at_most)
    near = [row for row in reversed(rows) if row.rank == 1][: min(most, (len(rows) + 1) // 2)]
    hard = [row for row in rows if row not in near][:most]
    return ClassImages(task=task.id, class_name=class_name, count=len(rows), nearest=tuple(near), hardest=tuple(hard))


def read_predicted(folder: Path) -> list[PredictedRow]:
    """Read what a run predicted of its test images.

    Raises
    ------
    DataError
        It kept no predictions, or they are damaged.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        raise DataError(
            f"wanted what the run predicted in {shown(path)}, found none: train it anew without --no-predictions"
        )
    try:
        return unpack_predictions(read_file(path))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"wanted what the run predicted in {shown(path)}, got a damaged file ({type(error).__name__}): train it "
            f"anew with --force"
        ) from None


def find_images_of(run: FinishedRun, images: ClassImages, root: Path) -> dict[str, Path]:
    """Find the files of picked images below a data root.

    Parameters
    ----------
    run : FinishedRun
    images : ClassImages
    root : Path
        Where the dataset lies as its catalogue says, as a folder of its name, or itself.

    Returns
    -------
    dict of str to Path
        By what predictions call them.

    Raises
    ------
    DataError
        They are not there.
    """
    names = [row.image for row in (*images.nearest, *images.hardest)]
    dataset = next((d for d in run.config.datasets if f"{images.task}/".startswith(f"{d}/")), images.task)
    for name in names:
        check_path(dataset, name, run.folder / PREDICTIONS)
    catalog = load_catalog()
    folders = [root / dataset, root]
    if dataset in catalog.datasets and (place := find_place(catalog.datasets[dataset], root)):
        folders.insert(0, place.images)
    for folder in folders:
        found = {name: folder / name for name in names}
        if all(path.is_file() for path in found.values()):
            return found
    raise DataError(
        f"wanted the test images of {dataset} ({shown(names[0])}, ...) below {shown(root)}, found not all of them: "
        f"give the folder that the dataset lies in with --root or CPTLITE_DATA"
    )
