"""Classes and tasks that a run never saw: their weights from their names and from what was learned of the others.

Axes: T tasks of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cptlite.classifiers import (
    Classifier,
    ImageConditionedClassifier,
    JoinedClassifier,
    LinearClassifier,
    StoredClassifier,
    TransportClassifier,
    join_classifiers,
)
from cptlite.config import RunConfig
from cptlite.datasets.specs import DEFAULT_TEMPLATE
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.methods.base import Problem
from cptlite.methods.table import methods_for
from cptlite.runs.load import FinishedRun
from cptlite.runs.matching import find_task, same_names
from cptlite.runs.prompts import load_prompts, naming_lost_prompts
from cptlite.runs.rows import no_rows

__all__ = ["classify_by_name", "extend_classifier", "name_task"]


def name_task(run: FinishedRun, word: str, names: Sequence[str]) -> Task:
    """Put a task of other classes together, if the run's method has weights for it.

    Parameters
    ----------
    run : FinishedRun
    word : str
        Id or name of a task of the run; or the words of a new one, which a method may read.
    names : sequence of str
        Of its classes.

    Raises
    ------
    UsageError
        A name is empty or given twice, or the method has no weights for such classes or for a new task.
    """
    if not names or not all(map(str.strip, (word, *names))):
        raise UsageError("wanted a task and names of its classes, got none or an empty one: give --task and --classes")
    if twice := same_names(names):
        raise UsageError(f"wanted each class once, got {twice[0]!r} again: leave it out")
    known = find_task(run.stored.tasks, word)
    label = "-".join(filter(None, (run.config.method, run.config.variant)))
    scope = _scope(run.config, len(run.stored.tasks))
    if scope == "class":
        of_it = f"{known.id!r} has ({', '.join(known.class_names)})" if known else f"a task has ({_listed(run)})"
        raise UsageError(
            f"{label} learns numbers for each class from its images, so it has none for a new one: give --classes that "
            f"{of_it}, or a run of a method whose weights come from names: {methods_for('task')}"
        )
    if scope == "task" and known is None:
        raise UsageError(
            f"{label} learned numbers for each task from its images, so it has none for a new task {word!r}: give one "
            f"of its own as --task ({_listed(run)}), whose classes may be new, or a run of a method all tasks share: "
            f"{methods_for('everything')}"
        )
    new = Task(id=word, name=word, class_names=(), template=DEFAULT_TEMPLATE, metric="acc1")
    return replace(known or new, class_names=tuple(names))


def classify_by_name(run: FinishedRun, task: Task) -> Classifier:
    """Make the classifier of one task as its run would have made it, had it been among those to be scored.

    Parameters
    ----------
    run : FinishedRun
    task : Task
        As of `name_task`.

    Raises
    ------
    UsageError
        The backbone is a path that was not given, or a name is too long for the text encoder.
    DataError
        The backbone is not there or not that of the run, or what was learned is not there or damaged.
    """
    text = run.towers.text(run.stored.backbone)
    problem, config = Problem(tasks=(task,), text=text), run.config
    generator = torch.Generator().manual_seed(0)
    if not config.entry.stepped:
        none = no_rows(run.stored.backbone.embed_dim, text.tower.device)
        return config.entry.probe(config.method, config.options).fit(problem, none, none, generator).classifier
    method = config.entry.method(problem, config.options)
    shapes = {name: value.shape for name, value in method.start(generator).items()}
    ids = [each.id for each in run.stored.tasks]
    with naming_lost_prompts(run.folder):
        learned = _of_task(load_prompts(run.folder), shapes, task.id, ids)
    return method.classifier({name: value.to(text.tower.device) for name, value in learned.items()})


def extend_classifier(run: FinishedRun, word: str, names: Sequence[str]) -> StoredClassifier:
    """Add classes to a run's classifier: to one of its tasks, or as a task of their own.

    Those that were there keep their weights. Arguments and errors are those of `name_task` and
    `classify_by_name`; a class that its task has already is an error too.
    """
    stored = run.stored
    task, known = name_task(run, word, names), find_task(stored.tasks, word)
    parts, tasks = _parts_of(stored), list(stored.tasks)
    if known is None:
        parts, tasks = [*parts, classify_by_name(run, task)], [*tasks, task]
    else:
        whole = replace(task, class_names=(*known.class_names, *names))
        if twice := same_names(whole.class_names):
            raise UsageError(f"wanted new classes of task {known.id!r}, got {twice[0]!r}, which it has: leave it out")
        place = tasks.index(known)
        tasks[place] = whole
        parts[place] = _longer(parts[place], run, task, whole)
    joined = join_classifiers(parts, [len(each.class_names) for each in tasks])
    return StoredClassifier(classifier=joined, tasks=tuple(tasks), backbone=stored.backbone)


def _scope(config: RunConfig, num_tasks: int) -> str:
    """Say what numbers of a run are for: of tasks that were learned one at a time, never for another task."""
    scope = config.entry.scope_of(config.variant)
    return "task" if scope == "everything" and config.entry.stepped and config.separate and num_tasks > 1 else scope


def _listed(run: FinishedRun) -> str:
    return ", ".join(task.id for task in run.stored.tasks)


def _of_task(
    stored: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], task: str, ids: Sequence[str]
) -> dict[str, Tensor]:
    """Learnables as one task has them: its own, its part of those that have one for each of T tasks, or all tasks'."""
    found = {}
    for name, shape in shapes.items():
        value = stored[f"{task}/{name}"] if f"{task}/{name}" in stored else stored[name]
        if value.shape != shape:
            value = value.unflatten(0, (len(ids), -1))[ids.index(task)]
        found[name] = value.view(shape)
    return found


def _parts_of(stored: StoredClassifier) -> list[Classifier]:
    """One classifier a task."""
    classifier = stored.classifier
    if isinstance(classifier, JoinedClassifier):
        return list(classifier.parts)
    ranges = [stored.classes_of(task.id) for task in stored.tasks]
    if isinstance(classifier, LinearClassifier):
        return [replace(classifier, weights=classifier.weights[own], bias=classifier.bias[own]) for own in ranges]
    if isinstance(classifier, TransportClassifier):
        return [replace(classifier, prompts=classifier.prompts[own]) for own in ranges]
    return [classifier]


def _longer(part: Classifier, run: FinishedRun, new: Task, whole: Task) -> Classifier:
    """Classifier of a task with new classes behind those that it had."""
    if isinstance(part, ImageConditionedClassifier):
        return classify_by_name(run, whole)  # its tensors say nothing of classes
    more = classify_by_name(run, new)
    if isinstance(part, TransportClassifier) and isinstance(more, TransportClassifier):
        return replace(part, prompts=torch.cat([part.prompts, more.prompts]))
    assert isinstance(part, LinearClassifier) and isinstance(more, LinearClassifier)
    return LinearClassifier.join([part, more])
