"""From few-shot rows to what was learned: fitted at once, or by steps on all tasks jointly or one after the other.

A folder with ``prompts.safetensors`` holds a training that is done: it is read, not repeated.

Axes: R runs trained together, T tasks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cptlite.classifiers import join_classifiers
from cptlite.config import RunConfig
from cptlite.errors import DataError
from cptlite.methods.base import FewShotRows, Learned, Problem, PromptMethod
from cptlite.runs.files import PROMPTS, SOURCE
from cptlite.runs.folders import task_folder
from cptlite.runs.guards import check_learned, check_text_tower, naming_memory
from cptlite.runs.prompts import read_prompts, write_prompts
from cptlite.runs.sources import first_config, given_source, learns_source, read_source, start_from
from cptlite.shots import mean_shots
from cptlite.training.checkpoint import LOG, check_log
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

__all__ = ["OnEpoch", "OnStep", "Run", "learn_runs", "learned_files"]

OnEpoch = Callable[[float, float], None]
OnStep = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: what is learned from which rows, and where it goes.

    Attributes
    ----------
    config : RunConfig
    train, val : FewShotRows
        To learn from, and to choose on.
    folder : Path, optional
        For its log, its checkpoint and, when it is done, its prompts.
    load_seconds : float
        That drawing and reading the rows took.
    source : mapping of str to Tensor
        What it starts from, where that is not drawn; see `MethodEntry.starts_from`.
    source_seconds : float
        That learning this first took.
    """

    config: RunConfig
    train: FewShotRows
    val: FewShotRows
    folder: Path | None = None
    load_seconds: float = 0.0
    source: Mapping[str, Tensor] = field(default_factory=dict)
    source_seconds: float = 0.0

    @property
    def recipe(self) -> Recipe:
        """How it is stepped, with as many images of a class as it has."""
        assert self.config.recipe is not None
        counts = torch.bincount(self.train.labels).tolist()
        return self.config.recipe.at(mean_shots(counts, self.config.shots))

    def of_task(self, task_id: str, start: int, stop: int) -> Run:
        """Take the part of one task, whose classes are a range of all, with a folder of its own.

        Raises
        ------
        DataError
            The task has no training rows.
        """
        rows = self.train.of_classes(start, stop)
        if not len(rows.labels):
            raise DataError(
                f"task {task_id!r} has no training rows to learn from on its own: cache some, leave its dataset out "
                f"with --dataset, or give --no-separate"
            )
        folder = task_folder(self.folder, task_id) if self.folder else None
        return replace(self, train=rows, folder=folder)


def learn_runs(
    problem: Problem,
    runs: Sequence[Run],
    on_epoch: OnEpoch | None = None,
    target: Problem | None = None,
    on_step: OnStep | None = None,
) -> list[Learned]:
    """Learn what some runs say: fitted one after the other, or trained as an axis of one forward.

    Parameters
    ----------
    problem : Problem
    runs : sequence of Run
        They differ in shots and seed alone.
    on_epoch : callable, optional
        Told the number of epochs that all runs together have done, of several tasks their mean, and the last
        epoch's mean loss.
    target : Problem, optional
        Whose classes the classifiers are of; by default the problem's. Classes and tasks of it that are not learned
        from get their weights by their names, from what was learned of the others.
    on_step : callable, optional
        Told the steps that all runs together have taken, as often as one is taken; as `count_steps` counts them.

    Returns
    -------
    list of Learned
        By run. Learnables of tasks that were learned separately are named ``<task id>/<learnable>``.

    Raises
    ------
    DataError
        A task that is learned on its own has no training rows, or a file of an earlier attempt is damaged.
    CptliteError
        Memory or the disk ran out, or a weight of the text encoder or what was learned is not a number.

    Notes
    -----
    A task that is learned separately has a folder of its own in the run's, and is learned as if there were no other:
    the run's seed starts its method and draws its batches. One task is learned the same way jointly and separately.
    """
    config, target = runs[0].config, target or problem
    check_text_tower(problem.text.tower)
    if not config.entry.stepped:
        learned = []
        for run in runs:
            started, generator = time.monotonic(), torch.Generator().manual_seed(run.config.seed)
            # Of those fitted at once, only one that looks at no rows has a target of its own: zero-shot.
            fitted = config.entry.probe(config.method, config.options).fit(target, run.train, run.val, generator)
            check_learned(fitted, run.config)
            learned.append(replace(fitted, seconds=time.monotonic() - started))
        return learned
    separately = config.separate and len(problem.tasks) > 1
    with naming_memory(problem, config, len(runs)):
        if learns_source(config):
            runs, on_epoch, on_step = _learn_sources(problem, runs, on_epoch, on_step)
        elif given_source(config):
            runs = [replace(run, source=read_source(config, None)) for run in runs]
        learned = (_learn_separately if separately else _learn_jointly)(problem, runs, on_epoch, target, on_step)
    for run, done in zip(runs, learned, strict=True):
        # What an attempt of the other kind left before it came to a checkpoint goes.
        if run.folder and separately:
            (run.folder / LOG).unlink(missing_ok=True)
            write_prompts(run.folder, done.learnables)
        elif run.folder:
            shutil.rmtree(run.folder / "tasks", ignore_errors=True)
    return [replace(done, seconds=done.seconds + run.source_seconds) for run, done in zip(runs, learned, strict=True)]


def learned_files(run: Run, learned: Learned) -> list[Path]:
    """Files that learning leaves in a run's folder, but for checkpoints."""
    if run.folder is None or not run.config.entry.stepped:
        return []
    tasks = sorted({name.rpartition("/")[0] for name in learned.learnables} - {""})
    folders = [task_folder(run.folder, task) for task in tasks] or [run.folder]
    folders += [run.folder / SOURCE] if learns_source(run.config) else []
    return [run.folder / PROMPTS, *(folder / name for folder in folders for name in (LOG, PROMPTS))]


def _learn_sources(
    problem: Problem, runs: Sequence[Run], on_epoch: OnEpoch | None, on_step: OnStep | None
) -> tuple[list[Run], OnEpoch | None, OnStep | None]:
    """Learn what some runs start from, each in a folder of its own in the run's; the runs, and who is told of more."""
    first = [replace(run, config=first_config(run.config), folder=run.folder and run.folder / SOURCE) for run in runs]
    found = _learn_jointly(problem, first, on_epoch, problem, on_step)
    epochs, steps = sum(run.recipe.epochs for run in first), sum(map(_num_steps, first))
    later = [
        replace(run, source=done.learnables, source_seconds=done.seconds) for run, done in zip(runs, found, strict=True)
    ]
    tell = (lambda done, loss: on_epoch(epochs + done, loss)) if on_epoch else None
    count = (lambda done: on_step(steps + done)) if on_step else None
    return later, tell, count


def _learn_separately(
    problem: Problem, runs: Sequence[Run], on_epoch: OnEpoch | None, target: Problem, on_step: OnStep | None
) -> list[Learned]:
    """Learn each task as a problem of its own, from its part of every run, and join what comes out."""
    parts: list[list[Learned]] = []  # by task, by run
    epochs = steps = 0
    for task, (start, stop), aim in zip(problem.tasks, problem.class_ranges, target.tasks, strict=True):

        def count(done: float, loss: float, before: int = epochs) -> None:
            if on_epoch:
                on_epoch((before + done) / len(problem.tasks), loss)

        def count_steps(done: int, before: int = steps) -> None:
            if on_step:
                on_step(before + done)

        of_task = [run.of_task(task.id, start, stop) for run in runs]
        own, goal = replace(problem, tasks=(task,)), replace(target, tasks=(aim,))
        parts.append(_learn_jointly(own, of_task, count, own if aim == task else goal, count_steps))
        epochs += sum(run.recipe.epochs for run in of_task)
        steps += sum(map(_num_steps, of_task))
    return [_join(target, of_run) for of_run in zip(*parts, strict=True)]


def _join(problem: Problem, parts: Sequence[Learned]) -> Learned:
    """Put one run's tasks together; their learnables are named ``<task id>/<learnable>``."""
    ids, sizes = [task.id for task in problem.tasks], [len(task.class_names) for task in problem.tasks]
    return Learned(
        classifier=join_classifiers([part.classifier for part in parts], sizes),
        num_parameters=sum(part.num_parameters for part in parts),
        learnables={
            f"{task}/{name}": value
            for task, part in zip(ids, parts, strict=True)
            for name, value in part.learnables.items()
        },
        seconds=sum(part.seconds for part in parts),
        graph=", ".join(sorted({part.graph for part in parts if part.graph})),
    )


def _learn_jointly(
    problem: Problem, runs: Sequence[Run], on_epoch: OnEpoch | None, target: Problem, on_step: OnStep | None
) -> list[Learned]:
    """Learn all tasks of a problem at once, or read what was learned; leaves each run's prompts in its folder."""
    started = time.monotonic()
    config = runs[0].config
    method = config.entry.method(problem, config.options, len(runs))
    starts = [method.start(torch.Generator().manual_seed(run.config.seed)) for run in runs]
    for run, learnables in zip(runs, starts, strict=True):
        if run.source:
            start_from(learnables, run.source, config)
    before = [read_prompts(run.folder, learnables) for run, learnables in zip(runs, starts, strict=True)]
    states = _begin(method, runs, starts, before, on_epoch)
    setup = (time.monotonic() - started) / len(runs)
    if states:
        earlier = sum(_num_steps(run) for index, run in enumerate(runs) if index not in states)
        count = (lambda done: on_step(earlier + done)) if on_step else None
        train(method, list(states.values()), cuda_graphs=config.cuda_graphs, on_step=count)
    finished = method if target is problem else config.entry.method(target, config.options)
    learned = []
    for index, (run, learnables, seconds) in enumerate(zip(runs, starts, before, strict=True)):
        done = Learned(
            classifier=finished.classifier(learnables),
            num_parameters=sum(value.numel() for value in learnables.values() if value.requires_grad),
            learnables=dict(learnables),
            seconds=setup + (states[index].seconds if seconds is None else seconds),
            graph=states[index].graph if seconds is None else "",
        )
        check_learned(done, run.config)  # the loss of a step is known before it is taken: not that of the last
        if run.folder and seconds is None:
            check_log(run.folder, states[index].steps_done)
            write_prompts(run.folder, learnables)  # with them the training is done
        learned.append(done)
    return learned


def _num_steps(run: Run) -> int:
    """Count the steps of a run that learns all its rows jointly."""
    return run.recipe.steps_on(len(run.train.labels))


def _begin(
    method: PromptMethod,
    runs: Sequence[Run],
    starts: Sequence[dict[str, nn.Parameter]],
    before: Sequence[float | None],
    on_epoch: OnEpoch | None,
) -> dict[int, TrainingState]:
    """Begin the runs whose training is not done before, from start or checkpoint; by place among all runs."""
    epochs_done = [0] * len(runs)
    states = {}
    for index, (run, learnables) in enumerate(zip(runs, starts, strict=True)):
        if before[index] is not None:
            epochs_done[index] = run.recipe.epochs
            continue

        def count(epochs: int, loss: float, index: int = index) -> None:
            epochs_done[index] = epochs
            if on_epoch:
                on_epoch(sum(epochs_done), loss)

        if run.folder:
            run.folder.mkdir(parents=True, exist_ok=True)
        states[index] = TrainingState(
            learnables,
            run.train,
            run.recipe,
            seed=run.config.seed,
            task_sizes=method.problem.task_sizes,
            folder=run.folder,
            on_epoch=count,
            rate_factors=method.rate_factors,
            mark_rows=method.mark_rows,
        )
        epochs_done[index] = states[index].epochs_done
    return states
