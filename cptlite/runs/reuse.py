"""What was trained, to be used: a run's folder, or a classifier in a file of its own, and the tasks it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cptlite.classifiers import StoredClassifier, load_classifier
from cptlite.datasets.text_files import shown
from cptlite.errors import UsageError
from cptlite.runs.by_name import classify_by_name, extend_classifier, name_task
from cptlite.runs.load import FinishedRun, Towers, read_run
from cptlite.runs.matching import find_task
from cptlite.runs.predict import Choice, choose_tasks
from cptlite.runs.reevaluate import check_outside

__all__ = ["Reusable", "read_reusable"]


@dataclass(frozen=True, kw_only=True)
class Reusable:
    """A classifier that is there to be used.

    Attributes
    ----------
    path : Path
        Folder of a run, or a file.
    stored : StoredClassifier
    towers : Towers
        Of its backbone.
    run : FinishedRun, optional
        None of a file.
    """

    path: Path
    stored: StoredClassifier
    towers: Towers
    run: FinishedRun | None = field(default=None, repr=False)

    @property
    def results(self) -> Mapping[str, Any]:
        """What a run's ``results.json`` holds."""
        return self.run.results if self.run else {}

    def choices(self, words: Sequence[str], classes: Sequence[str] = ()) -> list[Choice]:
        """Find what is to be chosen from: tasks by id or name, or of one task some classes, new ones among them.

        Parameters
        ----------
        words : sequence of str
            None for all tasks.
        classes : sequence of str
            None for all of each task. Where one is new, the weights of all come from their names.

        Raises
        ------
        UsageError
            There is no such task, or there are no weights for such classes.
        DataError
            What was learned or the backbone is not there, where names have to be encoded.
        """
        if not classes:
            return choose_tasks(self.stored, words)
        word = self._one_task(words)
        task = find_task(self.stored.tasks, word)
        if task is not None and self._has(task.id, classes):
            return choose_tasks(self.stored, [word], classes)
        run = self._need_run()
        named = name_task(run, word, classes)
        classifier = classify_by_name(run, named)
        return [Choice(task=named.id, class_names=named.class_names, classifier=classifier)]

    def extended(self, words: Sequence[str], classes: Sequence[str]) -> StoredClassifier:
        """Add classes, by their names, to a task or as a new one; see `extend_classifier`."""
        return extend_classifier(self._need_run(), self._one_task(words), classes)

    def check_outside(self, path: Path | None) -> None:
        """Refuse to write among a run's own files; see `check_outside`."""
        if self.run is not None:
            check_outside(self.path, path)

    def _one_task(self, words: Sequence[str]) -> str:
        if len(words) == 1 or (not words and len(self.stored.tasks) == 1):
            return words[0] if words else self.stored.tasks[0].id
        raise UsageError(
            f"wanted the one task that --classes are of, got {len(words) or 'none'}: give --task once, with one of "
            f"{', '.join(task.id for task in self.stored.tasks)} or, where all tasks share what was learned, a new one"
        )

    def _has(self, task: str, classes: Sequence[str]) -> bool:
        try:
            return bool(choose_tasks(self.stored, [task], classes))
        except UsageError:
            return False

    def _need_run(self) -> FinishedRun:
        if self.run is None:
            raise UsageError(
                f"wanted the folder of a run, whose learned prompts make weights for new classes, got the classifier "
                f"{shown(self.path)}: give that folder, or classes that one of its tasks has "
                f"({', '.join(task.id for task in self.stored.tasks)})"
            )
        return self.run


def read_reusable(
    path: Path, *, device: torch.device, backbone: str | None = None, precision: str | None = None
) -> Reusable:
    """Read a run's folder, or a classifier in a file; its backbone is not loaded unless its scores encode prompts.

    Parameters
    ----------
    path : Path
    device : torch.device
    backbone, precision
        As of `read_run`.

    Raises
    ------
    DataError, UsageError
        As of `read_run` and `load_classifier`.
    """
    if path.is_file():
        towers = Towers(source=path, device=device, given=backbone, precision=precision)
        return Reusable(path=path, stored=load_classifier(path, device=device, text=towers.text), towers=towers)
    run = read_run(path, device=device, backbone=backbone, precision=precision)
    return Reusable(path=path, stored=run.stored, towers=run.towers, run=run)
