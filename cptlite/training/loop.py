"""The training loop: prompts learned by gradient steps over cached rows in memory.

The recipe is SoftCPT's (Ding et al., 2024), which is CoOp's: SGD with momentum, a cosine over epochs after one constant
warm-up epoch, batches over the joint training set of all tasks, the last step kept.

Runs that differ in seed and rows alone train together as an axis R of one forward, each with its own batches, schedule,
optimiser, log and checkpoint: stopped or alone, a run goes the same way.

Axes: R runs trained together, N rows, V views, B images of a batch, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cptlite.methods.base import FewShotRows, PromptMethod
from cptlite.training.graph import Backward, record_backward
from cptlite.training.state import Recipe, Trainee, TrainingRun, learning_rate

__all__ = [
    "Recipe",
    "TrainingRun",
    "learning_rate",
    "put_learnables",
    "take_learnables",
    "train_prompts",
    "train_together",
]

LEAST_REPLAYS = 50  # a recording costs a handful of steps


def train_prompts(
    method: PromptMethod,
    rows: FewShotRows,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> float:
    """Train the learnables of a method in place: one run of `train_together`, which see.

    Returns
    -------
    float
        Seconds of training, those before an interruption included.
    """
    learnables = take_learnables(method)
    run = TrainingRun(learnables=learnables, rows=rows, seed=seed, folder=folder, on_epoch=on_epoch)
    train_together(method, [run], recipe)
    return run.seconds


def train_together(method: PromptMethod, runs: Sequence[TrainingRun], recipe: Recipe) -> None:
    """Train the learnables of several runs in place, as an axis of one forward.

    Parameters
    ----------
    method : PromptMethod
        Whose learnables have the shapes of the runs'; its own are lent to the runs and end as those of the last.
    runs : sequence of TrainingRun
        R runs.
    recipe : Recipe

    Raises
    ------
    CptliteError
        The loss is not a number any more.
    DataError
        A checkpoint cannot be gone on from.
    """
    started = [Trainee(run, recipe, len(method.problem.class_names)) for run in runs]
    while busy := [trainee for trainee in started if not trainee.finished]:
        # A run with fewer rows than a batch takes them all, and goes with those of as many rows.
        group = _Group(method, [trainee for trainee in busy if trainee.batch_size == busy[0].batch_size])
        while not any(trainee.finished for trainee in group.trainees):
            group.step()
    put_learnables(method, runs[-1].learnables)


def take_learnables(method: PromptMethod) -> dict[str, nn.Parameter]:
    """Learnables of a run that starts where the method stands, apart from the method's own."""
    return {
        name: nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
        for name, value in method.named_parameters()
    }


def put_learnables(method: PromptMethod, learnables: dict[str, nn.Parameter]) -> None:
    """Make a method's learnables those of one run."""
    for name, parameter in method.named_parameters():
        parameter.data = learnables[name].data


class _Group:
    """Runs that step together until the first of them is done.

    The method's learnables are theirs, stacked along a leading axis where there is more than one run; the runs' own are
    views into that memory, so that each optimiser steps its part in place.
    """

    def __init__(self, method: PromptMethod, trainees: Sequence[Trainee]) -> None:
        self.method, self.trainees = method, trainees
        self.alone = len(trainees) == 1
        for name, parameter in method.named_parameters():
            own = [trainee.run.learnables[name] for trainee in trainees]
            parameter.data = own[0].data if self.alone else torch.stack([value.data for value in own])
            for value, part in zip(own, [parameter.data] if self.alone else parameter.data, strict=True):
                value.data = part
        self._recorded = self._tried = False
        self._backward: Backward = method.backward

    def step(self) -> None:
        """Take one step of every run."""
        batches = [trainee.next_batch() for trainee in self.trainees]
        images, labels = batches[0] if self.alone else map(torch.stack, zip(*batches, strict=True))
        self._draw_classes()
        if not self._tried:
            self._tried = True
            self._record(images, labels)
        if not self._recorded:
            self.method.zero_grad(set_to_none=True)
        losses = self._backward(images, labels)  # (R,), or () alone
        gradients = {name: value.grad for name, value in self.method.named_parameters() if value.grad is not None}
        for index, trainee in enumerate(self.trainees):
            part = ... if self.alone else index
            own = {name: gradient[part] for name, gradient in gradients.items()}
            trainee.step(own, losses[part], len(self.trainees))

    def _draw_classes(self) -> None:
        """Subsample the classes of the next loss; in place, where a recorded step reads them."""
        if self.trainees[0].recipe.class_fraction == 1:
            self.method.kept_classes = None
            return
        drawn = [trainee.draw_classes() for trainee in self.trainees]
        kept = drawn[0] if self.alone else torch.stack(drawn)  # (..., K)
        if self.method.kept_classes is None or self.method.kept_classes.shape != kept.shape:
            self.method.kept_classes = kept
        else:
            self.method.kept_classes.copy_(kept)

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Replay steps from now on, where that pays."""
        recipe = self.trainees[0].recipe
        steps = min(trainee.steps_left for trainee in self.trainees)
        if images.is_cuda and recipe.cuda_graphs and steps >= LEAST_REPLAYS:
            recording = record_backward(self.method, images, labels)
            if recording is not None:
                self._backward, self._recorded = recording, True
