"""All that is found in a look inside a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.runs.class_images import ClassImages, find_class, need_task, pick_images
from cptlite.runs.contexts import (
    Context,
    NearWord,
    Similarity,
    check_has_contexts,
    check_measure,
    compare_tasks,
    nearest_words,
    read_contexts,
)
from cptlite.runs.load import FinishedRun

__all__ = ["Interpretation", "interpret_run"]

FACTS = ("method", "variant", "suite", "shots", "seed")


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """What a run learned.

    Attributes
    ----------
    run : FinishedRun
    measure : str
        Of distances to words.
    contexts : tuple of Context
    words : tuple of list of list of NearWord
        Of each context, by vector, the nearest first.
    similarity : Similarity, optional
        Of all tasks.
    none_because : str
        Why there is no similarity; else empty.
    images : ClassImages, optional
        Of the class that was asked for.
    """

    run: FinishedRun
    measure: str
    contexts: tuple[Context, ...]
    words: tuple[list[list[NearWord]], ...]
    similarity: Similarity | None
    none_because: str
    images: ClassImages | None

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON has it.

        Returns
        -------
        dict
            ``run`` and facts of it, ``measure``, ``contexts`` (``kind``, ``task``, ``class`` and ``prompt``, None where
            it is for all of them; by vector ``moved`` and ``words``), ``similarity`` (``tasks`` and ``cosines``) or,
            where that is None, ``no_similarity``; ``class``, None unless asked for.
        """
        likeness = self.similarity
        return {
            "run": str(self.run.folder),
            **{name: self.run.results[name] for name in FACTS if name in self.run.results},
            "measure": self.measure,
            "contexts": [_context(*each) for each in zip(self.contexts, self.words, strict=True)],
            "similarity": likeness and {"tasks": list(likeness.tasks), "cosines": likeness.cosines.tolist()},
            "no_similarity": self.none_because,
            "class": self.images and _images(self.images),
        }


def _context(context: Context, words: Sequence[Sequence[NearWord]]) -> dict[str, Any]:
    return {
        "kind": context.kind,
        "task": context.task,
        "class": context.class_name,
        "prompt": context.prompt,
        "vectors": [
            {"moved": moved, "words": [each._asdict() for each in near]}
            for moved, near in zip(context.moved, words, strict=True)
        ],
    }


def _images(images: ClassImages) -> dict[str, Any]:
    rows = {kind: [row._asdict() for row in getattr(images, kind)] for kind in ("nearest", "hardest")}
    return {"task": images.task, "name": images.class_name, "images": images.count, **rows}


def interpret_run(
    run: FinishedRun,
    *,
    top: int = 3,
    measure: str = "euclidean",
    task: str | None = None,
    class_name: str | None = None,
) -> Interpretation:
    """Look inside a run.

    Parameters
    ----------
    run : FinishedRun
    top, measure
        As of `nearest_words`.
    task : str, optional
        Id or name of the task whose contexts alone are looked at.
    class_name : str, optional
        The class whose contexts alone are looked at, and whose test images are picked.

    Raises
    ------
    UsageError
        The method learns no contexts, there is no such task, class or measure, or the backbone is a path that was not
        given.
    DataError
        The backbone, what was learned or, for a class, what was predicted is not there or damaged.
    """
    check_has_contexts(run.config)
    check_measure(measure)
    home, own = _find(run.stored.tasks, task, class_name)
    images = pick_images(run, home, own) if home and own is not None else None
    contexts = read_contexts(run)
    similarity, reason = None, ""
    try:
        similarity = compare_tasks(run.config.method, contexts)
    except UsageError as error:
        reason = str(error)
    if home is not None:
        contexts = [each for each in contexts if each.is_for(home.id, own)]
    vectors = torch.cat([each.vectors for each in contexts])
    near = iter(nearest_words(run.towers.text(run.stored.backbone), vectors, top=top, measure=measure))
    words = tuple([next(near) for _ in each.vectors] for each in contexts)
    return Interpretation(
        run=run,
        measure=measure,
        contexts=tuple(contexts),
        words=words,
        similarity=similarity,
        none_because=reason,
        images=images,
    )


def _find(tasks: Sequence[Task], task: str | None, class_name: str | None) -> tuple[Task | None, str | None]:
    """Task and class that are meant; None where none is."""
    if class_name is not None:
        return find_class(tasks, class_name, task)
    return (None if task is None else need_task(tasks, task)), None
