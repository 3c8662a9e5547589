"""One run of a training: its recipe, its batches and schedule, its optimiser.

Axes: N rows, V views, B images of a batch, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cptlite.errors import CptliteError
from cptlite.methods.base import FewShotRows
from cptlite.training.checkpoint import Progress, resume, save_checkpoint, write_log

__all__ = ["Recipe", "Trainee", "TrainingRun", "learning_rate"]

CHECKPOINT_SECONDS = 10.0
SMALL_BATCH = 32  # the paper's


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the learnables are stepped; the fields are those of `cptlite.config.TrainConfig`.

    Attributes
    ----------
    epochs, batch_size : int
    optimizer : str
        ``sgd`` or ``adamw``.
    lr, momentum, weight_decay : float
        Momentum is AdamW's first beta too.
    warmup_epochs : int
    warmup_lr : float
    least_steps : int
        Steps of an epoch: where rows are too few for them, batches are smaller than ``batch_size``, down to 32.
    class_fraction : float
        Below 1 a step's loss is over the classes in its batch and each other one with this probability, as SoftCPT's
        code does to save memory; here it saves none, since all classes are encoded in any case.
    cuda_graphs : bool
        Whether a GPU records a step and replays it, where that comes out the same.
    """

    epochs: int = 50
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    least_steps: int = 1
    class_fraction: float = 1.0
    cuda_graphs: bool = True

    def batch_of(self, count: int) -> int:
        """Rows of a batch where there are ``count``."""
        enough_steps = max(SMALL_BATCH, count // self.least_steps)
        return min(self.batch_size, enough_steps, count)

    def new_optimizer(self, learnables: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimiser of a run."""
        if self.optimizer == "adamw":
            betas = (self.momentum, 0.999)
            return torch.optim.AdamW(learnables, lr=self.lr, betas=betas, weight_decay=self.weight_decay)
        assert self.optimizer == "sgd"
        return torch.optim.SGD(learnables, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


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


class Trainee:
    """A run in training: its optimiser, and where it stands in its own epochs."""

    def __init__(self, run: TrainingRun, recipe: Recipe, num_classes: int) -> None:
        self.run, self.recipe, self.num_classes = run, recipe, num_classes
        self.optimizer = recipe.new_optimizer(run.learnables.values())
        self.progress = Progress()
        self.progress.generator.manual_seed(run.seed)
        resume(run.learnables, self.optimizer, self.progress, run.folder)
        run.seconds = self.progress.seconds
        count = len(run.rows.features)
        self.batch_size = recipe.batch_of(count)
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

    def draw_classes(self) -> Tensor:
        """Classes that the next step's loss is over besides those in its batch: Tensor of shape (K,), bool."""
        drawn = torch.rand(self.num_classes, generator=self.progress.generator) < self.recipe.class_fraction
        return drawn.to(self.run.rows.features.device, non_blocking=True)

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


def _check_finite(values: list[float], epoch: int) -> None:
    if not all(map(math.isfinite, values)):
        raise CptliteError(f"the loss stopped being a number in epoch {epoch + 1}: give a smaller --lr")
