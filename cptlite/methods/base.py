"""What every method is: something that learns from few cached rows and ends as a classifier of all tasks.

Axes: R runs trained together, T tasks, K classes of all tasks in task-major order, Q of them that are scored, B images,
N rows, V views, M patches of an image, C contexts, L context tokens, W text width, I input of the image tower's
projection, D joint dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from cptlite.classifiers import Classifier
from cptlite.datasets.types import Task
from cptlite.methods.batches import Batch, Part, Scored, cross_entropy
from cptlite.text.encoder import TextEncoder

__all__ = [
    "FewShotRows",
    "Learned",
    "Probe",
    "Problem",
    "PromptMethod",
    "count_tokens",
    "new_context",
    "new_linear",
]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The tasks to solve together, and the text encoder to solve them with.

    Attributes
    ----------
    tasks : tuple of Task
        T tasks; classes of all tasks are numbered in this order.
    text : TextEncoder
    projection : (Tensor of shape (I, D), Tensor of shape (D,) or None), optional
        Last layer of the image tower, matrix and bias, for a method of the features before it.
    """

    tasks: tuple[Task, ...]
    text: TextEncoder
    projection: tuple[Tensor, Tensor | None] | None = None

    @cached_property
    def class_names(self) -> list[str]:
        """All K class names, task-major."""
        return [name for task in self.tasks for name in task.class_names]

    @cached_property
    def task_sizes(self) -> tuple[int, ...]:
        """Classes of each task."""
        return tuple(len(task.class_names) for task in self.tasks)

    @cached_property
    def class_tasks(self) -> Tensor:
        """Task of each class: Tensor of shape (K,), int64."""
        tasks = torch.arange(len(self.tasks)).repeat_interleave(torch.tensor(self.task_sizes))
        return tasks.to(self.text.tower.device)

    @cached_property
    def offsets(self) -> list[int]:
        """First class of each task among all K."""
        starts = [0]
        for task in self.tasks:
            starts.append(starts[-1] + len(task.class_names))
        return starts[:-1]

    @cached_property
    def class_ranges(self) -> list[tuple[int, int]]:
        """First class of each task among all K, and the one after its last."""
        return list(zip(self.offsets, [*self.offsets[1:], len(self.class_names)], strict=True))


@dataclass(frozen=True, kw_only=True)
class FewShotRows:
    """Cached features of some rows, in memory.

    Attributes
    ----------
    features : Tensor of shape (N, V, D)
        Raw (not unit length), view 0 the plain one. For a method of patch features (N, 1, M, D), the plain view's.
    labels : Tensor of shape (N,), int64
        Class among all K classes.
    """

    features: Tensor
    labels: Tensor

    def of_classes(self, start: int, stop: int) -> FewShotRows:
        """Rows of the classes in a range, numbered from 0 on."""
        here = torch.nonzero((start <= self.labels) & (self.labels < stop))[:, 0]
        return FewShotRows(features=self.features[here], labels=self.labels[here] - start)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a method learned.

    Attributes
    ----------
    classifier : Classifier
        Over all K classes.
    num_parameters : int
        Numbers learned.
    choices : dict of str to dict
        Numbers chosen on validation rows, by task id.
    learnables : dict of str to Tensor
        Of a prompt method, by name.
    seconds : float
        That learning took, earlier attempts included.
    graph : str
        What became of recording the steps on a GPU; empty where none was asked for.
    """

    classifier: Classifier
    num_parameters: int
    choices: dict[str, dict[str, float]] = field(default_factory=dict)
    learnables: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    graph: str = ""


class Probe(ABC):
    """A method that is fitted at once."""

    @property
    def unchosen(self) -> str:
        """What it takes, in words, for a task without the validation rows that it would choose on; empty if none."""
        return ""

    @abstractmethod
    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows, generator: torch.Generator) -> Learned:
        """Learn from train rows, choose hyper-parameters on val rows; draws come from a generator of the CPU."""


class PromptMethod(ABC):
    """A method that learns by gradient steps.

    It holds what is frozen: prompts as they are laid out and planned, anchors, options. What is learned is passed in by
    name, with the axis R of runs in front. Runs differ in seed and rows alone and share nothing but the forward: each
    has a loss of its own. A step does the same work whatever is in the batch, so that it can be recorded.

    Parameters
    ----------
    problem : Problem
    runs : int
        R that prompts are planned for; others are planned when they come.
    """

    def __init__(self, problem: Problem, runs: int = 1) -> None:
        self.problem = problem
        self.runs = runs
        self.logit_scale = problem.text.tower.logit_scale

    @property
    def context_owners(self) -> dict[str, str]:
        """What a context of each learnable that is contexts, or of those made of learnables, is for, by name.

        ``all`` tasks, a ``task``, a ``class``, or a ``prompt``, of which each task has the same number.
        """
        return {}

    @property
    def rate_factors(self) -> dict[str, float]:
        """Learning rate of a learnable over the recipe's, by name; 1 of those that are not named."""
        return {}

    @abstractmethod
    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw where one run starts: its learnables by name, without the axis R.

        One that is not learned requires no gradient. Draws come from a generator of the CPU, so that a seed gives the
        same start on any device.
        """

    @abstractmethod
    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Scaled cosines with every class of every task, differentiable in the learnables.

        Parameters
        ----------
        learnables : mapping of str to Tensor of shape (R, ...)
        images : Tensor of shape (R, B, D)
            Raw features; those of patches (R, B, M, D) for a method that reads these.

        Returns
        -------
        Tensor of shape (R, B, K), float32
        """

    @abstractmethod
    def classifier(self, learnables: Mapping[str, Tensor]) -> Classifier:
        """Make the classifier of one run, whose learnables have no axis R; later steps leave it as it is."""

    def score(self, learnables: Mapping[str, Tensor], batch: Batch) -> list[Scored]:
        """Scores of a batch, part by part; of all classes first, where a method does not know better."""
        scores = self.logits(learnables, batch.images)  # (R, B, K)
        if batch.classes is not None:
            picks = batch.classes.clamp(min=0)[:, None].expand(-1, scores.shape[1], -1)
            scores = scores.gather(-1, picks)  # (R, B, Q)
        return [part.cut(scores) for part in self.parts(batch)]

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy of each image over its own task's classes, of those that are scored, averaged over the batch.

        Parameters
        ----------
        learnables : mapping of str to Tensor of shape (R, ...)
        batch : Batch

        Returns
        -------
        Tensor of shape (R,)
        """
        return cross_entropy(self.score(learnables, batch))

    def mark_rows(self, learnables: Mapping[str, Tensor], rows: FewShotRows) -> Tensor | None:
        """Note something of every training row of one run, whose learnables have no axis R, as an epoch begins.

        Returns
        -------
        Tensor of shape (N,), bool, or None
            For `Batch.marks`; rows that are marked come first in the epoch, then the others, both in the order drawn.
            None of a method that has nothing to note.
        """
        return None

    def gradients(self, learnables: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each run, (R,), detached, and by name the gradient (R, ...) of each learnable that has one.

        Arguments are those of `loss`. One that requires none, or takes no part in the loss, is left out.
        """
        learned = {name: value for name, value in learnables.items() if value.requires_grad}
        loss = self.loss(learnables, batch)
        # Runs share no learnable, so each gets the gradient of its own loss.
        found = torch.autograd.grad(loss.sum(), list(learned.values()), allow_unused=True)
        return loss.detach(), {name: value for name, value in zip(learned, found, strict=True) if value is not None}

    def parts(self, batch: Batch) -> list[Part]:
        """Parts of a batch of this problem's tasks."""
        return batch.parts(self.problem.class_tasks, self.problem.class_ranges)


def count_tokens(length: int, words: str, text: TextEncoder) -> int:
    """Context tokens L: as many as the words it starts from, where there are any."""
    return len(text.word_vectors(words)) if words else length


def new_context(shape: Sequence[int], words: str, text: TextEncoder, generator: torch.Generator) -> nn.Parameter:
    """Learnable context vectors of shape (C, L, W): from L words, or drawn from N(0, 0.02^2)."""
    count, length, width = shape
    if words:
        start = text.word_vectors(words).expand(count, -1, -1).clone()
    else:
        start = torch.randn(count, length, width, generator=generator) * 0.02
    return nn.Parameter(start.to(text.tower.device))


def new_linear(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> dict[str, nn.Parameter]:
    """Learnable ``weight`` (out, in) and ``bias`` (out,), as `nn.Linear` draws them."""
    weight, bias = torch.empty(shape), torch.empty(shape[0])
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(shape[1])
    drawn = {"weight": weight, "bias": bias.uniform_(-bound, bound, generator=generator)}
    return {name: nn.Parameter(value.to(device)) for name, value in drawn.items()}
