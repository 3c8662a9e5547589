"""What a run's prompts learned: the words nearest to each context vector, how far it moved, how alike tasks' are.

Source: nearest words by Euclidean distance, as Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022)
look at what they learned.

Axes: N context vectors, L of one context, W text width, V words of the vocabulary, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.config import RunConfig
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.methods.base import Problem
from cptlite.methods.entry import MethodEntry
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.softcpt import SoftCPT
from cptlite.methods.table import METHODS
from cptlite.runs.load import FinishedRun
from cptlite.runs.prompts import load_prompts, naming_lost_prompts
from cptlite.runs.seen import seen_sizes, seen_tasks
from cptlite.text.encoder import TextEncoder

__all__ = [
    "GENERATED",
    "MEASURES",
    "Context",
    "NearWord",
    "Similarity",
    "check_has_contexts",
    "check_measure",
    "compare_tasks",
    "nearest_words",
    "read_contexts",
]

GENERATED = "generated"
MEASURES = ("euclidean", "cosine")
BLOCK = 256  # vectors that are compared with the whole vocabulary at a time: 100 MB


@dataclass(frozen=True, kw_only=True)
class Context:
    """One context of a run, and where it started.

    Attributes
    ----------
    kind : str
        The learnable's name, or `GENERATED` of one that a meta network makes.
    vectors, start : Tensor of shape (L, W), float32
        As it is, and as it was before the first step.
    task : str, optional
        Id of the task that it is for; None where several share it.
    class_name : str, optional
        The class that it is for; None where all of its task's share it.
    prompt : int, optional
        Which of the task's prompts, from 1, where a class has several.
    """

    kind: str
    vectors: Tensor
    start: Tensor
    task: str | None = None
    class_name: str | None = None
    prompt: int | None = None

    @property
    def moved(self) -> list[float | None]:
        """Distance of each vector from its start over the length of that; None where it started at zero."""
        lengths, ways = self.start.norm(dim=-1).tolist(), (self.vectors - self.start).norm(dim=-1).tolist()
        return [way / length if length else None for way, length in zip(ways, lengths, strict=True)]

    def is_for(self, task: str, class_name: str | None) -> bool:
        """Whether it is for a task, and for a class of it where one is given, alone or among others."""
        return self.task in (None, task) and (class_name is None or self.class_name in (None, class_name))

    @property
    def label(self) -> str:
        """What it is for, in words."""
        prompt = f"prompt {self.prompt}" if self.prompt else None
        return ", ".join(filter(None, (self.task or "all tasks", self.class_name, prompt)))


class NearWord(NamedTuple):
    """A word of the vocabulary near a vector: as `Tokenizer.word` has it, its number, and how far it is."""

    word: str
    token: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How alike the contexts of tasks are.

    Attributes
    ----------
    tasks : tuple of str
        T ids.
    cosines : Tensor of shape (T, T), float64
    """

    tasks: tuple[str, ...]
    cosines: Tensor


def check_has_contexts(config: RunConfig) -> None:
    """Refuse a method that learns no contexts.

    Raises
    ------
    UsageError
        It says which methods do.
    """
    if not _has_contexts(config.entry):
        having = ", ".join(name for name, entry in METHODS.items() if _has_contexts(entry))
        raise UsageError(
            f"wanted a run with learned prompts to look into, got one of {config.method}, which learns "
            f"{config.entry.learns.partition(':')[0]}: give a run of one of {having}"
        )


def _has_contexts(entry: MethodEntry) -> bool:
    return any(option.name == "context_length" for option in entry.list_options())


def read_contexts(run: FinishedRun) -> list[Context]:
    """Contexts of a run: those it learned, then those that its meta network makes of names, if it has one.

    Raises
    ------
    UsageError
        As of `check_has_contexts`, or the backbone is a path that was not given.
    DataError
        The backbone is not there or not that of the run, or what was learned is not there or damaged.
    """
    config, tasks = run.config, run.stored.tasks
    check_has_contexts(config)
    text = run.towers.text(run.stored.backbone)
    with naming_lost_prompts(run.folder):
        stored = load_prompts(run.folder)
    seen = seen_tasks(tasks, seen_sizes(config, tasks))
    if not config.separate or len(seen) == 1:
        return list(_contexts_of(run, Problem(tasks=seen, text=text), Problem(tasks=tasks, text=text), stored))
    contexts: list[Context] = []
    for learned, scored in zip(seen, tasks, strict=True):  # none is held out where each is learned on its own
        own = {name.rpartition("/")[2]: value for name, value in stored.items() if name.startswith(f"{learned.id}/")}
        contexts += _contexts_of(run, Problem(tasks=(learned,), text=text), Problem(tasks=(scored,), text=text), own)
    return contexts


@torch.no_grad()
def _contexts_of(
    run: FinishedRun, learned: Problem, scored: Problem, stored: Mapping[str, Tensor]
) -> Iterator[Context]:
    """Contexts of one training on some tasks, and of the tasks that it is scored on."""
    config = run.config
    method = config.entry.method(learned, config.options)
    start = {name: value.detach() for name, value in method.start(_seeded(config.seed)).items()}
    with naming_lost_prompts(run.folder):
        now = {name: stored[name].to(value).view_as(value) for name, value in start.items()}
    for name, owner in method.context_owners.items():
        if isinstance(method, CoOp):  # of which some are made of other learnables
            yield from _name_contexts(name, owner, learned, *(_made(method, each) for each in (now, start)))
        else:
            yield from _name_contexts(name, owner, learned, now[name], start[name])
    if isinstance(method, SoftCPT):
        whole = method if scored.tasks == learned.tasks else config.entry.method(scored, config.options)
        assert isinstance(whole, SoftCPT)
        made = (_made(whole, each) for each in (now, start))
        yield from _name_contexts(GENERATED, "class" if whole.has_class_features else "task", scored, *made)


def _made(method: CoOp | SoftCPT, learnables: Mapping[str, Tensor]) -> Tensor:
    """Contexts (C, L, W) of one run, whose learnables have no axis R."""
    return method.contexts({name: value[None] for name, value in learnables.items()})[0]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _name_contexts(kind: str, owner: str, problem: Problem, vectors: Tensor, start: Tensor) -> Iterator[Context]:
    """One context after the other, (C, L, W) as they are and as they were, with what each is for."""
    for words, now, then in zip(_owners(owner, problem.tasks, len(vectors)), vectors, start, strict=True):
        task, class_name, prompt = words
        yield Context(kind=kind, vectors=now, start=then, task=task, class_name=class_name, prompt=prompt)


def _owners(owner: str, tasks: Sequence[Task], count: int) -> list[tuple[str | None, str | None, int | None]]:
    """(task, class, prompt) of each of so many contexts, None for what it is not one of."""
    if owner == "all":
        return [(tasks[0].id if len(tasks) == 1 else None, None, None)]
    if owner == "class":
        return [(task.id, name, None) for task in tasks for name in task.class_names]
    if owner == "prompt":
        return [(task.id, None, place + 1) for task in tasks for place in range(count // len(tasks))]
    return [(task.id, None, None) for task in tasks]


def check_measure(measure: str) -> None:
    """Refuse a measure that is not one of `MEASURES`."""
    if measure not in MEASURES:
        raise UsageError(f"unknown measure {measure!r}: give one of {', '.join(MEASURES)}")


@torch.no_grad()
def nearest_words(
    text: TextEncoder, vectors: Tensor, *, top: int = 3, measure: str = "euclidean"
) -> list[list[NearWord]]:
    """Find the words of the vocabulary whose embeddings are nearest to some vectors.

    Parameters
    ----------
    text : TextEncoder
    vectors : Tensor of shape (N, W)
    top : int
        How many for each.
    measure : str
        ``euclidean``, or ``cosine``: 1 less the cosine.

    Returns
    -------
    list of list of NearWord
        By vector, the nearest first. Start and end of a prompt are no words.

    Raises
    ------
    UsageError
        Unknown measure.
    """
    check_measure(measure)
    words, vectors = text.tower.token_embedding.detach().double(), vectors.double()  # (V, W), (N, W)
    if measure == "cosine":
        words, vectors = F.normalize(words, dim=-1), F.normalize(vectors, dim=-1)
    specials = [token for token in (text.tokenizer.sos, text.tokenizer.eos) if token is not None]
    lengths = words.square().sum(dim=-1)  # (V,)
    lengths[specials] = torch.inf
    found = []
    for block in vectors.split(BLOCK):
        near = (lengths - 2 * block @ words.mT).topk(min(top, len(words) - len(specials)), largest=False).indices
        # Anew, without the squares' cancellation: a word itself is at 0.
        distances = (words[near] - block[:, None]).norm(dim=-1)  # (N, top)
        if measure == "cosine":
            distances = distances.square() / 2  # of unit vectors
        distances, order = distances.sort(dim=-1, stable=True)
        for tokens, each in zip(near.gather(-1, order).tolist(), distances.tolist(), strict=True):
            found.append([NearWord(shown(text.tokenizer.word(t)), t, d) for t, d in zip(tokens, each, strict=True)])
    return found


def compare_tasks(method: str, contexts: Sequence[Context]) -> Similarity:
    """Compare the contexts of tasks by their cosine: those that a meta network makes, or else those that were learned.

    Where a task has several, for its classes or prompts, their mean is taken; the L vectors are compared as one.

    Raises
    ------
    UsageError
        All tasks share one context, or there is one task.
    """
    generated = [context for context in contexts if context.kind == GENERATED]
    by_task: dict[str | None, list[Tensor]] = {}
    for context in generated or contexts:
        by_task.setdefault(context.task, []).append(context.vectors)
    tasks = tuple(task for task in by_task if task is not None)
    if not tasks:
        raise UsageError(
            f"no similarity of tasks: {method} has one context, which all tasks share: give a run of a "
            f"method whose tasks have contexts of their own, coop-ca or softcpt perhaps"
        )
    if len(tasks) == 1:
        raise UsageError("no similarity of tasks: the run has one task: give a run of several")
    means = torch.stack([torch.stack(by_task[task]).double().mean(dim=0).flatten() for task in tasks])  # (T, L W)
    unit = F.normalize(means, dim=-1)
    return Similarity(tasks=tasks, cosines=unit @ unit.mT)
