"""From few-shot rows to learned prompts: all tasks jointly, or one after the other.

A folder with ``prompts.safetensors`` holds a training that is done: it is read, not repeated.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from cptlite.classifiers import Classifier, join_classifiers
from cptlite.config import TrainConfig
from cptlite.errors import CptliteError, DataError
from cptlite.methods.base import FewShotRows, Problem, PromptMethod, PromptOptions
from cptlite.methods.table import find_method
from cptlite.runs.files import read_prompts, task_folder, write_prompts
from cptlite.training.loop import Recipe, TrainingRun, put_learnables, take_learnables, train_together

__all__ = ["Learned", "OnEpoch", "PromptRun", "learn_prompts"]

OnEpoch = Callable[[float, float], None]
Choices = TypeVar("Choices", Recipe, PromptOptions)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What training left.

    Attributes
    ----------
    classifier : Classifier
    parameters : int
        Numbers learned.
    seconds : float
        Of training, earlier attempts included.
    choices : dict of str to dict
        Numbers chosen on validation rows, by task id.
    learnables : dict of str to nn.Parameter
        By name, of a prompt method.
    """

    classifier: Classifier
    parameters: int
    seconds: float = 0.0
    choices: dict[str, dict[str, float]] = field(default_factory=dict)
    learnables: dict[str, nn.Parameter] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PromptRun:
    """One run of a prompt method.

    Attributes
    ----------
    config : TrainConfig
    rows : FewShotRows
        To train on.
    folder : Path, optional
        For its log, its checkpoint and, when it is done, its prompts.
    """

    config: TrainConfig
    rows: FewShotRows
    folder: Path | None = None


def learn_prompts(problem: Problem, runs: Sequence[PromptRun], on_epoch: OnEpoch | None = None) -> list[Learned]:
    """Learn the prompts of some runs as their configuration says: jointly, or one task at a time.

    Parameters
    ----------
    problem : Problem
    runs : sequence of PromptRun
        They differ in shots and seed alone, and share a forward where the method can.
    on_epoch : callable, optional
        Told the number of epochs that all runs together have done, of several tasks their mean, and the last
        epoch's mean loss.

    Returns
    -------
    list of Learned
        By run. Learnables of tasks that were learned separately are named ``<task id>/<learnable>``.

    Raises
    ------
    DataError
        A task that is learned on its own has no training rows, or a file of an earlier attempt is damaged.

    Notes
    -----
    A task that is learned separately has a folder of its own in the run's, and is learned as if there were no other:
    the run's seed starts its method and draws its batches. One task is learned the same way jointly and separately.
    """
    separately = runs[0].config.separate and len(problem.tasks) > 1
    learned = (_learn_separately if separately else _learn_jointly)(problem, runs, on_epoch)
    for run, done in zip(runs, learned, strict=True):
        if run.folder:
            _tidy(run.folder, done, separately)
    return learned


def _tidy(folder: Path, learned: Learned, separately: bool) -> None:
    """Join the tasks' prompts; delete what an attempt of the other kind left before it came to a checkpoint."""
    if separately:
        (folder / "log.jsonl").unlink(missing_ok=True)
        write_prompts(folder, learned.learnables)
    else:
        shutil.rmtree(folder / "tasks", ignore_errors=True)


def _learn_separately(problem: Problem, runs: Sequence[PromptRun], on_epoch: OnEpoch | None) -> list[Learned]:
    learned: list[list[Learned]] = []  # by task, by run
    epochs, num_tasks = sum(run.config.epochs for run in runs), len(problem.tasks)
    for task, runs_of_task in _by_task(problem, runs):

        def told(done: float, loss: float, before: int = epochs * len(learned)) -> None:
            if on_epoch:
                on_epoch((before + done) / num_tasks, loss)

        learned.append(_learn_jointly(task, runs_of_task, told))
    return [_join(problem, parts) for parts in zip(*learned, strict=True)]


def _by_task(problem: Problem, runs: Sequence[PromptRun]) -> list[tuple[Problem, list[PromptRun]]]:
    """Each task as a problem of its own, with its part of every run."""
    parts = []
    for task, (start, stop) in zip(problem.tasks, problem.class_ranges, strict=True):
        own = [
            replace(
                run,
                rows=run.rows.of_classes(start, stop),
                folder=task_folder(run.folder, task.id) if run.folder else None,
            )
            for run in runs
        ]
        if not all(len(run.rows.labels) for run in own):
            raise DataError(
                f"task {task.id!r} has no training rows to learn from on its own: cache some, leave its dataset out "
                f"with --dataset, or give --no-separate"
            )
        parts.append((replace(problem, tasks=(task,)), own))
    return parts


def _join(problem: Problem, parts: Sequence[Learned]) -> Learned:
    """One run's tasks as a whole."""
    learnables = {
        f"{task.id}/{name}": value
        for task, part in zip(problem.tasks, parts, strict=True)
        for name, value in part.learnables.items()
    }
    sizes = [len(task.class_names) for task in problem.tasks]
    return Learned(
        classifier=join_classifiers([part.classifier for part in parts], sizes),
        parameters=sum(part.parameters for part in parts),
        seconds=sum(part.seconds for part in parts),
        learnables=learnables,
    )


def _learn_jointly(problem: Problem, runs: Sequence[PromptRun], on_epoch: OnEpoch | None) -> list[Learned]:
    """Learn all tasks of a problem at once, or read what was learned; leaves each run's prompts in its folder."""
    epochs_done = [0] * len(runs)

    def count(index: int, done: int, loss: float) -> None:
        epochs_done[index] = done
        if on_epoch:
            on_epoch(sum(epochs_done), loss)

    trainings: list[TrainingRun] = []
    setup: list[float] = []
    for index, run in enumerate(runs):
        started = time.monotonic()
        method = _new_method(problem, run.config)
        setup.append(time.monotonic() - started)
        training = TrainingRun(
            learnables=take_learnables(method),
            rows=run.rows,
            seed=run.config.seed,
            folder=run.folder,
            on_epoch=partial(count, index),
        )
        trainings.append(training)
    _train(method, trainings, _choices(Recipe, runs[0].config))
    return [
        _read_off(method, training, run, seconds) for training, run, seconds in zip(trainings, runs, setup, strict=True)
    ]


def _new_method(problem: Problem, config: TrainConfig) -> PromptMethod:
    """Start a run's method from its seed."""
    entry, variant = find_method(config.method, config.variant)
    assert entry.prompts is not None
    torch.manual_seed(config.seed)
    return entry.prompts(problem, _choices(PromptOptions, config), variant)


def _train(method: PromptMethod, trainings: Sequence[TrainingRun], recipe: Recipe) -> None:
    """Train those that are not done, together."""
    waiting = [training for training in trainings if not _is_done(training)]
    if waiting:
        train_together(method, waiting, recipe)


def _is_done(training: TrainingRun) -> bool:
    """Whether an earlier attempt learned all; then it is read."""
    if training.folder is None:
        return False
    training.folder.mkdir(parents=True, exist_ok=True)
    seconds = read_prompts(training.folder, training.learnables)
    training.seconds = seconds or 0.0
    return seconds is not None


def _read_off(method: PromptMethod, training: TrainingRun, run: PromptRun, setup_seconds: float) -> Learned:
    """Make a classifier of what a run learned, and file its prompts: with them the training is done."""
    put_learnables(method, training.learnables)
    classifier = method.classifier()
    _check_numbers(classifier, run.config)
    if run.folder:
        write_prompts(run.folder, training.learnables)
    return Learned(
        classifier=classifier,
        parameters=method.num_parameters(),
        seconds=setup_seconds + training.seconds,
        learnables=training.learnables,
    )


def _check_numbers(classifier: Classifier, config: TrainConfig) -> None:
    """Refuse what a last step too large has learned: the loss of a step is known before it is taken."""
    numbers = (array for array in classifier.arrays().values() if array.dtype.kind == "f")
    if not all(np.isfinite(array).all() for array in numbers):
        raise CptliteError(f"what was learned stopped being a number in epoch {config.epochs}: give a smaller --lr")


def _choices(kind: type[Choices], config: TrainConfig) -> Choices:
    """Pick the part of a configuration that a room below methods takes."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})
