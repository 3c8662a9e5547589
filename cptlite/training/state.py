"""One run in training: its learnables, its batches and schedule, its optimiser, and how far it is.

Axes: N rows, V views, B images of a batch, M patches of an image, T tasks, K classes of all tasks, Q of them that are
scored, D joint dimension.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.errors import CptliteError
from cptlite.methods.base import FewShotRows
from cptlite.methods.batches import Batch
from cptlite.training.checkpoint import resume, save_checkpoint, write_log
from cptlite.training.recipe import Recipe
from cptlite.training.sampling import ClassSampler

__all__ = ["TrainingState", "new_optimizer"]

CHECKPOINT_SECONDS = 10.0
READ_SECONDS = 1.0  # between looks at the losses, on a device that a look waits for
AT_ONCE = ("cpu",)  # devices on which a loss is there as soon as its step is taken
MarkRows = Callable[[Mapping[str, Tensor], FewShotRows], Tensor | None]


@dataclass(kw_only=True)
class _Epoch:
    """What is known of an epoch that is done: its number, its first step, losses of all, and seconds until its end."""

    number: int
    first_step: int
    losses: list[Tensor]
    seconds: float = 0.0


class TrainingState:
    """One run in training.

    Parameters
    ----------
    learnables : dict of str to nn.Parameter
        As `PromptMethod.start` drew them. This is their one home: they are stepped in place.
    rows : FewShotRows
        On the device of the learnables. With more than one view, each image is seen in a random one of views 1 and up.
    recipe : Recipe
        As it is at the run's number of shots (`Recipe.at`).
    seed : int
        Draws the batches, the views and the classes that a loss is over.
    task_sizes : sequence of int
        Classes of each task.
    folder : Path, optional
        Keeps ``log.jsonl`` and a checkpoint there; a checkpoint found there is gone on from.
    on_epoch : callable, optional
        Called with the number of epochs done and the epoch's mean loss. A GPU would have to be waited for after each:
        there it is told of several at a time, every second and at the end; log and checkpoint come as late.
    rate_factors : mapping of str to float, optional
    mark_rows : callable, optional
        As of `PromptMethod`.

    Attributes
    ----------
    batch_size : int
    task_rows : tuple of int, optional
        Rows of each task, where a batch is all rows of several: these stand task by task then.
    epochs_done, steps_done : int
    seconds : float
        Of training so far, earlier attempts included; of steps taken together with other runs, this run's share.
    graph : str
        What became of recording its steps on a GPU: ``recorded``, ``off`` or ``not recorded: <reason>``; empty on a
        device that does not record.

    Raises
    ------
    DataError
        The checkpoint cannot be gone on from.
    """

    def __init__(
        self,
        learnables: dict[str, nn.Parameter],
        rows: FewShotRows,
        recipe: Recipe,
        *,
        seed: int,
        task_sizes: Sequence[int],
        folder: Path | None = None,
        on_epoch: Callable[[int, float], None] | None = None,
        rate_factors: Mapping[str, float] | None = None,
        mark_rows: MarkRows | None = None,
    ) -> None:
        self.learnables, self.rows, self.recipe = learnables, rows, recipe
        self.folder, self.on_epoch, self.mark_rows = folder, on_epoch, mark_rows
        assert recipe == recipe.at(1)  # it is that of a number of shots
        self.optimizer = new_optimizer(recipe, learnables, rate_factors or {})
        self.generator = torch.Generator().manual_seed(seed)
        self.epochs_done = self.steps_done = 0
        self.seconds = 0.0
        self.graph = ""
        count = len(rows.labels)
        self.batch_size = recipe.batch_of(count)
        self.steps_per_epoch = count // self.batch_size  # the last partial batch is dropped when there is a full one
        self._sampler: ClassSampler | None = None
        if recipe.class_fraction < 1:
            self._sampler = ClassSampler(task_sizes, recipe.class_fraction, self.batch_size, rows.labels.device)
        self.task_rows: tuple[int, ...] | None = None
        self._by_task: Tensor | None = None
        every_class = self._sampler is None or self._sampler.width == sum(task_sizes)
        if self.batch_size == count and every_class and len(task_sizes) > 1:
            self.task_rows, self._by_task = _order_by_task(rows.labels, task_sizes)
        if folder:
            resume(folder, self)
        self._losses: list[Tensor] = []  # of the epoch's steps so far
        self._unread: list[_Epoch] = []
        self._started = self._saved = self._read = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epochs_done >= self.recipe.epochs

    @property
    def steps_taken(self) -> int:
        """Steps so far, those of an epoch that is not done included."""
        return self.steps_done + len(self._losses)

    @property
    def steps_left(self) -> int:
        """Steps until `finished`."""
        return (self.recipe.epochs - self.epochs_done) * self.steps_per_epoch - len(self._losses)

    def next_batch(self) -> Batch:
        """Rows of the next step, in random views, with the axis R of one run in front."""
        if not self._losses:
            self._begin_epoch()
        start = len(self._losses) * self.batch_size
        picked = self._order[start : start + self.batch_size] if self._by_task is None else self._by_task  # (B,)
        labels = self.rows.labels[picked]
        return Batch(
            images=self.rows.features[picked, self._views[picked]][None],
            labels=labels[None],
            classes=self._sampler.draw(labels, self.generator)[None] if self._sampler else None,
            task_rows=self.task_rows,
            marks=None if self._marks is None else self._marks[picked][None],
        )

    def step(self, gradients: Mapping[str, Tensor], loss: Tensor, *, num_runs: int = 1) -> None:
        """Step along gradients, as often as the recipe says; the time since the last step was that of so many runs.

        Raises
        ------
        CptliteError
            When losses are read: one is not a number any more, or the disk is full.
        """
        for name, gradient in gradients.items():
            self.learnables[name].grad = gradient
        for _ in range(self.recipe.steps_per_batch):
            self.optimizer.step()
        self._losses.append(loss)
        if len(self._losses) == self.steps_per_epoch:
            self._end_epoch(num_runs)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "learnables": {name: value.detach().clone() for name, value in self.learnables.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "progress": {"epoch": self.epochs_done, "step": self.steps_done, "seconds": self.seconds},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        with torch.no_grad():
            for name, value in self.learnables.items():
                value.copy_(state_dict["learnables"][name].view_as(value))
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.generator.set_state(state_dict["generator"])
        progress = state_dict["progress"]
        self.epochs_done, self.steps_done, self.seconds = (progress[name] for name in ("epoch", "step", "seconds"))

    def _begin_epoch(self) -> None:
        """Draw the order of the rows and the view of each; set the learning rate; mark rows."""
        count, num_views = self.rows.features.shape[:2]
        device, generator = self.rows.features.device, self.generator
        self._order = torch.randperm(count, generator=generator).to(device, non_blocking=True)
        self._views = torch.zeros(count, dtype=torch.int64, device=device)
        if num_views > 1:
            self._views = torch.randint(1, num_views, (count,), generator=generator).to(device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.epochs_done) * group.get("rate_factor", 1.0)
        self._started = time.monotonic()
        self._marks = self.mark_rows(self.learnables, self.rows) if self.mark_rows else None  # (N,)
        if self._marks is not None:
            self._order = self._order[(~self._marks[self._order]).int().argsort(stable=True)]

    def _end_epoch(self, num_runs: int) -> None:
        """Count the epoch; where that is due, read losses, log them and keep a checkpoint now and then."""
        epoch = _Epoch(number=self.epochs_done, first_step=self.steps_done, losses=self._losses)
        self._unread.append(epoch)
        self._losses = []
        self.epochs_done += 1
        self.steps_done += len(epoch.losses)
        due = self.rows.labels.device.type in AT_ONCE or self.finished or time.monotonic() - self._read > READ_SECONDS
        losses = self._read_losses() if due else []
        now = time.monotonic()
        self.seconds += (now - self._started) / num_runs
        epoch.seconds = round(self.seconds, 3)
        if not due:
            return
        epochs, self._unread, self._read = self._unread, [], now
        means = self._note(epochs, losses)
        if self.folder and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            save_checkpoint(self.folder, self)
            self._saved = time.monotonic()
        if self.on_epoch:
            for each, mean in zip(epochs, means, strict=True):
                self.on_epoch(each.number + 1, mean)

    def _read_losses(self) -> list[float]:
        """Losses of all steps that are not read yet: the one place where a training waits for its device."""
        return torch.stack([loss for epoch in self._unread for loss in epoch.losses]).tolist()

    def _note(self, epochs: Sequence[_Epoch], losses: Sequence[float]) -> list[float]:
        """Log some epochs; the mean loss of each."""
        lines, means, taken = [], [], iter(losses)
        try:
            for epoch in epochs:
                of_epoch = list(itertools.islice(taken, len(epoch.losses)))
                self._check_finite(epoch, of_epoch)
                facts = {"lr": self.recipe.learning_rate(epoch.number), "seconds": epoch.seconds}
                steps = enumerate(of_epoch, start=epoch.first_step)
                lines += [{"step": step, "epoch": epoch.number, "loss": loss, **facts} for step, loss in steps]
                means.append(sum(of_epoch) / len(of_epoch))
        finally:  # of what went well before
            if self.folder and lines:
                write_log(self.folder, lines)
        return means

    def _check_finite(self, epoch: _Epoch, losses: Sequence[float]) -> None:
        if all(map(math.isfinite, losses)):
            return
        if epoch.first_step == 0 and not math.isfinite(losses[0]):  # nothing was stepped before
            raise CptliteError(
                "the loss is not a number in the first step, before anything was learned: give the method's own "
                "options values nearer to their defaults, or --precision float32"
            )
        raise CptliteError(
            f"the training diverged: the loss stopped being a number in epoch {epoch.number + 1} at a "
            f"learning rate of {self.recipe.lr:g}: give a smaller --lr"
        )


def _order_by_task(labels: Tensor, task_sizes: Sequence[int]) -> tuple[tuple[int, ...], Tensor]:
    """Rows of each task, and all rows (N,) task by task."""
    sizes = torch.tensor(task_sizes)
    tasks = torch.arange(len(sizes)).repeat_interleave(sizes)[labels.cpu()]  # (N,)
    counts = torch.bincount(tasks, minlength=len(sizes)).tolist()
    return tuple(counts), tasks.argsort(stable=True).to(labels.device)


def new_optimizer(
    recipe: Recipe, learnables: Mapping[str, nn.Parameter], factors: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Make a run's optimiser, which passes over learnables that have no gradient; a group for each rate."""
    groups: list[dict[str, Any]] = [{"params": [value for name, value in learnables.items() if name not in factors]}]
    for factor in dict.fromkeys(factors.values()):
        own = [value for name, value in learnables.items() if factors.get(name) == factor]
        groups.append({"params": own, "rate_factor": factor})
    if recipe.optimizer != "sgd":
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
        how = {"betas": (recipe.momentum, 0.999), "eps": recipe.adam_eps, "weight_decay": recipe.weight_decay}
        return kind(groups, lr=recipe.lr, **how)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
