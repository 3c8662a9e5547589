"""What every method is: something that learns from few cached rows and ends as a classifier of all tasks.

Axes: R runs trained together, T tasks, K classes of all tasks in task-major order, B images, N rows, W text width,
D joint dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers import Classifier
from cptlite.datasets.types import Task
from cptlite.text.encoder import TextEncoder

__all__ = [
    "FewShotRows",
    "Method",
    "Problem",
    "PromptMethod",
    "PromptOptions",
]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The tasks to solve together, and the text encoder to solve them with.

    Attributes
    ----------
    tasks : tuple of Task
        T tasks; classes of all tasks are numbered in this order.
    text : TextEncoder
    templates : tuple of str
        Zero-shot prompts with ``{}`` for the class name, for all tasks; empty takes each task's own.
    """

    tasks: tuple[Task, ...]
    text: TextEncoder
    templates: tuple[str, ...] = ()

    @cached_property
    def class_names(self) -> list[str]:
        """All K class names, task-major."""
        return [name for task in self.tasks for name in task.class_names]

    @cached_property
    def class_tasks(self) -> Tensor:
        """Task of each class: Tensor of shape (K,), int64."""
        sizes = torch.tensor([len(task.class_names) for task in self.tasks])
        return torch.repeat_interleave(torch.arange(len(self.tasks)), sizes).to(self.text.tower.device)

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
        Raw (not unit length), view 0 the plain one. For a method of local features (N, 1, M, D), the plain view's.
    labels : Tensor of shape (N,), int64
        Class among all K classes.
    """

    features: Tensor
    labels: Tensor

    def of_classes(self, start: int, stop: int) -> FewShotRows:
        """Rows of the classes in a range, numbered from 0 on."""
        here = torch.nonzero((start <= self.labels) & (self.labels < stop))[:, 0]
        return FewShotRows(features=self.features[here], labels=self.labels[here] - start)


class Method(ABC):
    """A method that is fitted at once and read off as a classifier.

    Attributes
    ----------
    choices_ : dict of str to dict
        Numbers chosen on validation rows, by task id, after `fit`.
    """

    def __init__(self) -> None:
        self.choices_: dict[str, dict[str, float]] = {}
        self._size = 0

    @abstractmethod
    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows) -> Classifier:
        """Learn from train rows, choose hyper-parameters on val rows."""

    def num_parameters(self) -> int:
        """Numbers learned."""
        return self._size


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Choices shared by the prompt methods; the fields are those of `cptlite.config.TrainConfig`.

    Attributes
    ----------
    context_length, task_context_length, class_context_length : int
        L, M and Mc: context tokens of class prompts, task prompts and class-feature prompts.
    position : str
        Where the class name stands in class prompts: ``end``, ``middle`` or ``front``.
    context_init, task_context_init, class_context_init : str
        Words to start a context from; empty draws from N(0, 0.02^2).
    sub_network : str
        What enters SoftCPT's sub-network when it has class features: ``lin``, ``linmean`` or ``lincls``.
    freeze_class_context : bool
        Whether the class-feature context stays as it starts.
    """

    context_length: int = 16
    task_context_length: int = 4
    class_context_length: int = 4
    position: str = "end"
    context_init: str = ""
    task_context_init: str = ""
    class_context_init: str = ""
    sub_network: str = "lin"
    freeze_class_context: bool = False


class PromptMethod(nn.Module, ABC):
    """A method that learns prompts by gradient steps.

    Runs that differ in seed and rows alone can train together: every learnable then has a leading axis R, so do the
    rows, and each run has a loss of its own. Shapes below are written "..." where that axis may stand. A step does the
    same work whatever is in the batch, so that it can be recorded.

    Parameters
    ----------
    problem : Problem

    Attributes
    ----------
    kept_classes : Tensor of shape (..., K), bool, optional
        Classes that the loss is over besides those in the batch; None for all. Set before each step by the training
        loop where it subsamples classes.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.logit_scale = problem.text.tower.logit_scale
        self.kept_classes: Tensor | None = None

    @abstractmethod
    def classifier_logits(self, images: Tensor) -> Tensor:
        """Scaled cosines with every class of every task, differentiable in the learnables.

        Parameters
        ----------
        images : Tensor of shape (..., B, D)
            Raw features.

        Returns
        -------
        Tensor of shape (..., B, K), float32
        """

    @abstractmethod
    def classifier(self) -> Classifier:
        """Return the classifier as it stands; later steps leave it as it is."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each image over its own task's classes, averaged over the batch.

        Parameters
        ----------
        images : Tensor of shape (..., B, D)
            Raw features.
        labels : Tensor of shape (..., B), int64
            Class among all K.

        Returns
        -------
        Tensor of shape (...)
        """
        return cross_entropy(self.mask_classes(self.classifier_logits(images), labels), labels)

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave gradients on the learnables, which have none; return the loss, detached. Shapes as in `loss`."""
        loss = self.loss(images, labels)
        loss.sum().backward()  # runs share no learnable, so each gets the gradient of its own loss
        return loss.detach()

    def mask_classes(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Put -inf at classes that a loss is not over: of other tasks, or not kept; (..., B, K) to (..., B, K)."""
        scores = mask_other_tasks(scores, self.problem.class_tasks, labels)
        if self.kept_classes is None:
            return scores
        present = torch.zeros_like(self.kept_classes).scatter(-1, labels, True)  # (..., K)
        return scores.masked_fill(~(self.kept_classes | present)[..., None, :], float("-inf"))

    def num_parameters(self) -> int:
        """Numbers learned."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def mask_other_tasks(scores: Tensor, class_tasks: Tensor, labels: Tensor) -> Tensor:
    """Put -inf at classes of other tasks than each label's: (..., B, K) to (..., B, K)."""
    return scores.masked_fill(class_tasks[labels][..., None] != class_tasks, float("-inf"))


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of each run, from (..., B, K) and (..., B) to (...)."""
    return F.cross_entropy(scores.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels).mean(dim=-1)


def new_context(shape: Sequence[int], words: str, text: TextEncoder) -> nn.Parameter:
    """Learnable context vectors of shape (C, L, W): from words, or drawn from N(0, 0.02^2).

    Words set their own L. Draws come from PyTorch's CPU generator, so that a seed gives the same start on any device.
    """
    count, length, width = shape
    if words:
        start = text.word_vectors(words).expand(count, -1, -1).clone()
    else:
        start = torch.randn(count, length, width) * 0.02
    return nn.Parameter(start.to(text.tower.device))
