"""The training loop: prompts learned by gradient steps over cached rows in memory.

The recipe is SoftCPT's (Ding et al., 2024), which is CoOp's: SGD with momentum, a cosine over epochs after one constant
warm-up epoch, batches over the joint training set of all tasks, the last step kept.

Runs that differ in seed and rows alone train together as an axis R of one forward, each with its own batches, schedule,
optimiser, log and checkpoint: stopped or alone, a run goes the same way.

Axes: R runs trained together, N rows, V views, B images of a batch, D joint dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cptlite.errors import CptliteError
from cptlite.methods.base import FewShotRows, PromptMethod
from cptlite.training_files import Progress, resume, save_checkpoint, write_log
from cptlite.training_graph import Backward, record_backward

__all__ = [
    "Recipe",
    "TrainingRun",
    "learning_rate",
    "put_learnables",
    "take_learnables",
    "train_prompts",
    "train_together",
]

CHECKPOINT_SECONDS = 10.0
LEAST_REPLAYS = 50  # a recording costs a handful of steps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the learnables are stepped; the fields are those of `cptlite.config.TrainConfig`.

    On a GPU ``cuda_graphs`` records a step and replays it, where that comes out the same.
    """

    epochs: int = 50
    batch_size: int = 32
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    cuda_graphs: bool = True


def learning_rate(epoch: int, *, epochs: int, base: float, warmup_epochs: int, warmup_rate: float) -> float:
    """Learning rate of an epoch, counted from 0: constant warm-up, then a cosine that would reach 0 at ``epochs``."""
    if epoch < warmup_epochs:
        return warmup_rate
    return base / 2 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / epochs))


@dataclass(kw_only=True)
class TrainingRun:
    """One run of a training.

    Attributes
    ----------
    learnables : dict of str to nn.Parameter
        By name as in the method, but not the method's own; trained in place.
    rows : FewShotRows
        On the device of the method. With more than one view, each image is seen in a random one of views 1 and up.
    seed : int
        Draws the batches and the views.
    folder : Path, optional
        Keeps ``log.jsonl`` and a checkpoint there; a checkpoint found there is gone on from.
    on_epoch : callable, optional
        Told the number of epochs done and the epoch's mean loss.
    seconds : float
        Of training so far, earlier attempts included; of a step taken together, the run's share.
    """

    learnables: dict[str, nn.Parameter]
    rows: FewShotRows
    seed: int
    folder: Path | None = None
    on_epoch: Callable[[int, float], None] | None = None
    seconds: float = 0.0


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
        R runs; more than one needs a method with ``uniform_steps``.
    recipe : Recipe

    Raises
    ------
    CptliteError
        The loss or what was learned is not a number any more.
    DataError
        A checkpoint cannot be gone on from.
    """
    started = [_Trainee(run, recipe) for run in runs]
    while busy := [trainee for trainee in started if not trainee.finished]:
        # A run with fewer rows than a batch takes them all, and goes with those of as many rows.
        group = _Group(method, [trainee for trainee in busy if trainee.batch_size == busy[0].batch_size])
        while not any(trainee.finished for trainee in group.trainees):
            group.step()
    for run in runs:
        put_learnables(method, run.learnables)
        with torch.no_grad():  # the loss of a step is known before the step: what the last one did shows here alone
            image = torch.ones_like(run.rows.features[:1, 0])
            _check_finite([float(method.classifier_logits(image).sum())], recipe.epochs - 1)


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


class _Trainee:
    """A run in training: its optimiser, and where it stands in its own epochs."""

    def __init__(self, run: TrainingRun, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self.optimizer = torch.optim.SGD(
            run.learnables.values(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.progress = Progress()
        self.progress.generator.manual_seed(run.seed)
        resume(run.learnables, self.optimizer, self.progress, run.folder)
        run.seconds = self.progress.seconds
        count = len(run.rows.features)
        self.batch_size = min(recipe.batch_size, count)
        self.steps_per_epoch = count // self.batch_size  # the last partial batch is dropped when there is a full one
        self._losses: list[Tensor] = []
        self._started = self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch >= self.recipe.epochs

    @property
    def steps_left(self) -> int:
        """Steps until `finished`."""
        return (self.recipe.epochs - self.progress.epoch) * self.steps_per_epoch - len(self._losses)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Features (B, D) and classes (B,) of the next step."""
        if not self._losses:
            self._begin_epoch()
        start = len(self._losses) * self.batch_size
        picked = self._order[start : start + self.batch_size]  # (B,)
        return self.run.rows.features[picked, self._view[picked]], self.run.rows.labels[picked]

    def step(self, gradients: dict[str, Tensor], loss: Tensor, sharers: int) -> None:
        """Step along gradients; ``sharers`` runs took the time since the last step."""
        for name, gradient in gradients.items():
            self.run.learnables[name].grad = gradient
        self.optimizer.step()
        self._losses.append(loss)
        if len(self._losses) == self.steps_per_epoch:
            self._end_epoch(sharers)

    def _begin_epoch(self) -> None:
        count, views = self.run.rows.features.shape[:2]
        device, generator = self.run.rows.features.device, self.progress.generator
        self._order = torch.randperm(count, generator=generator).to(device)
        view = torch.randint(1, views, (count,), generator=generator) if views > 1 else torch.zeros(count).long()
        self._view = view.to(device)
        recipe = self.recipe
        self._rate = learning_rate(
            self.progress.epoch,
            epochs=recipe.epochs,
            base=recipe.lr,
            warmup_epochs=recipe.warmup_epochs,
            warmup_rate=recipe.warmup_lr,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        self._started = time.monotonic()

    def _end_epoch(self, sharers: int) -> None:
        run, progress = self.run, self.progress
        values = torch.stack(self._losses).tolist()  # the one host synchronisation of an epoch
        self._losses = []
        _check_finite(values, progress.epoch)
        progress.seconds += (time.monotonic() - self._started) / sharers
        run.seconds = progress.seconds
        write_log(run.folder, progress, values, self._rate)
        progress.epoch += 1
        progress.step += len(values)
        if run.folder and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            save_checkpoint(run.learnables, self.optimizer, progress, run.folder)
            self._saved = time.monotonic()
        if run.on_epoch:
            run.on_epoch(progress.epoch, sum(values) / len(values))


class _Group:
    """Runs that step together until the first of them is done.

    The method's learnables are theirs, stacked along a leading axis where there is more than one run; the runs' own are
    views into that memory, so that each optimiser steps its part in place.
    """

    def __init__(self, method: PromptMethod, trainees: Sequence[_Trainee]) -> None:
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

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Replay steps from now on, where that pays."""
        recipe = self.trainees[0].recipe
        steps = min(trainee.steps_left for trainee in self.trainees)
        if images.is_cuda and recipe.cuda_graphs and self.method.uniform_steps and steps >= LEAST_REPLAYS:
            recording = record_backward(self.method, images, labels)
            if recording is not None:
                self._backward, self._recorded = recording, True


def _check_finite(values: list[float], epoch: int) -> None:
    if not all(map(math.isfinite, values)):
        raise CptliteError(f"the loss stopped being a number in epoch {epoch + 1}: give a smaller --lr")
