"""What classes are taken for, counted from the predictions that runs kept.

Axes: C classes of a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cptlite.datasets.text_files import shown
from cptlite.reporting.page.sources import check_own
from cptlite.reporting.results import Result
from cptlite.runs.class_images import read_predicted
from cptlite.runs.files import PREDICTIONS

__all__ = ["Confusion", "count_confusion"]

MOST_CLASSES = 40  # of a task that have room in a picture


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often the classes of a task are taken for each other.

    Attributes
    ----------
    task : str
    names : tuple of str
        Classes that are shown, in label order: all, or those with the most mistakes.
    num_classes : int
        C.
    totals : tuple of int
        Images of each shown class, taken for whatever.
    cells : tuple of int
        Class, predicted class, both by their place in ``names``, and images, one after the other; none without images.
    """

    task: str
    names: tuple[str, ...]
    num_classes: int
    totals: tuple[int, ...]
    cells: tuple[int, ...]


def count_confusion(runs: Iterable[Result]) -> list[Confusion]:
    """Count what the test images of each task are taken for, over some runs of one configuration and shots together.

    Of a run that held tasks out, these are counted; a run that kept no predictions is left out.

    Raises
    ------
    DataError
        Predictions of a run are damaged, or not its own.
    """
    counts: dict[str, Counter[tuple[str, str]]] = {}
    names: dict[str, list[str]] = {}
    for run in runs:
        folder = Path(run["folder"]) if run.get("folder") else None
        if folder is None or not (folder / PREDICTIONS).exists():
            continue
        check_own(run, folder / PREDICTIONS)
        wanted = [task for task, scores in run["tasks"].items() if scores.get("held_out")] or list(run["tasks"])
        for task in wanted:
            names.setdefault(task, [str(name) for name in run["tasks"][task].get("classes") or ()])
            counts.setdefault(task, Counter())
        for row in read_predicted(folder):
            if row.task in counts and row.task in wanted:
                counts[row.task][row.label, row.predicted] += 1
    return [_pick(task, names[task], pairs) for task, pairs in counts.items() if pairs]


def _pick(task: str, classes: Sequence[str], pairs: Counter[tuple[str, str]]) -> Confusion:
    """Choose the classes that are shown."""
    known = dict.fromkeys([*classes, *(name for pair in sorted(pairs) for name in pair)])
    wrong: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for (label, predicted), count in pairs.items():
        totals[label] += count
        if label != predicted:
            wrong[label] += count
            wrong[predicted] += count
    most = sorted(known, key=lambda name: -wrong[name])[:MOST_CLASSES]
    kept = [name for name in known if name in most]
    place = {name: number for number, name in enumerate(kept)}
    cells = sorted(
        (place[label], place[predicted], count)
        for (label, predicted), count in pairs.items()
        if label in place and predicted in place
    )
    return Confusion(
        task=task,
        names=tuple(map(shown, kept)),
        num_classes=len(known),
        totals=tuple(totals[name] for name in kept),
        cells=tuple(number for cell in cells for number in cell),
    )
