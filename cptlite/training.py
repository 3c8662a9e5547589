"""The training loop: prompts learned by gradient steps over cached rows in memory.

The recipe is SoftCPT's (Ding et al., 2024), which is CoOp's: SGD with momentum, a cosine over epochs after one constant
warm-up epoch, batches over the joint training set of all tasks, the last step kept.

Axes: N rows, V views, B images of a batch, D joint dimension.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cptlite.errors import CptliteError, DataError
from cptlite.files import replacing
from cptlite.methods.base import FewShotRows, PromptMethod

__all__ = ["Recipe", "learning_rate", "train_prompts"]

CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the learnables are stepped; the fields are those of `cptlite.config.TrainConfig`."""

    epochs: int = 50
    batch_size: int = 32
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5


def learning_rate(epoch: int, *, epochs: int, base: float, warmup_epochs: int, warmup_rate: float) -> float:
    """Learning rate of an epoch, counted from 0: constant warm-up, then a cosine that would reach 0 at ``epochs``."""
    if epoch < warmup_epochs:
        return warmup_rate
    return base / 2 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / epochs))


@dataclass(kw_only=True)
class _Progress:
    """Where a training stands: what a checkpoint holds besides learnables and momenta."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    generator: torch.Generator = field(default_factory=torch.Generator)


def train_prompts(
    method: PromptMethod,
    rows: FewShotRows,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> float:
    """Train the learnables of a method in place.

    Parameters
    ----------
    method : PromptMethod
    rows : FewShotRows
        On the device of the method. With more than one view, each image is seen in a random one of views 1 and up.
    recipe : Recipe
    seed : int
        Draws the batches and the views.
    folder : Path, optional
        Keeps ``log.jsonl`` and a checkpoint there; a checkpoint found there is gone on from.
    on_epoch : callable, optional
        Told the number of epochs done and the epoch's mean loss.

    Returns
    -------
    float
        Seconds of training, those before an interruption included.

    Raises
    ------
    CptliteError
        The loss or what was learned is not a number any more.
    DataError
        The checkpoint cannot be gone on from.
    """
    optimizer = torch.optim.SGD(
        method.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    progress = _Progress()
    progress.generator.manual_seed(seed)
    _resume(method, optimizer, progress, folder)
    saved = time.monotonic()
    while progress.epoch < recipe.epochs:
        started = time.monotonic()
        rate = _set_rate(optimizer, recipe, progress.epoch)
        losses = torch.stack([_step(method, optimizer, *batch) for batch in _batches(rows, recipe, progress)])
        values = losses.tolist()  # the one host synchronisation of an epoch
        _check_finite(values, progress.epoch)
        progress.seconds += time.monotonic() - started
        _write_log(folder, progress, values, rate)
        progress.epoch += 1
        progress.step += len(values)
        if folder and time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(method, optimizer, progress, folder)
            saved = time.monotonic()
        if on_epoch:
            on_epoch(progress.epoch, sum(values) / len(values))
    with torch.no_grad():  # the loss of a step is known before the step: what the last one did shows here alone
        _check_finite([float(method.class_weights().sum())], progress.epoch - 1)
    return progress.seconds


def _step(method: PromptMethod, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """One gradient step; the loss before it, still on the device."""
    optimizer.zero_grad(set_to_none=True)
    loss = method.backward(images, labels)
    optimizer.step()
    return loss


def _batches(rows: FewShotRows, recipe: Recipe, progress: _Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch; the last partial one is dropped when there is a full one."""
    count, views = rows.features.shape[:2]
    device = rows.features.device
    order = torch.randperm(count, generator=progress.generator).to(device)
    view = torch.zeros(count, dtype=torch.long)
    if views > 1:
        view = torch.randint(1, views, (count,), generator=progress.generator)
    view = view.to(device)
    size = min(recipe.batch_size, count)
    for start in range(0, count - size + 1, size):
        picked = order[start : start + size]  # (B,)
        yield rows.features[picked, view[picked]], rows.labels[picked]


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> float:
    rate = learning_rate(
        epoch,
        epochs=recipe.epochs,
        base=recipe.lr,
        warmup_epochs=recipe.warmup_epochs,
        warmup_rate=recipe.warmup_lr,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _check_finite(values: list[float], epoch: int) -> None:
    if not all(map(math.isfinite, values)):
        raise CptliteError(f"the loss stopped being a number in epoch {epoch + 1}: give a smaller --lr")


def _write_log(folder: Path | None, progress: _Progress, losses: list[float], rate: float) -> None:
    if folder is None:
        return
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for index, loss in enumerate(losses):
            line: dict[str, Any] = {
                "step": progress.step + index,
                "epoch": progress.epoch,
                "loss": loss,
                "lr": rate,
            }
            log.write(json.dumps({**line, "seconds": round(progress.seconds, 3)}) + "\n")


def _save(method: PromptMethod, optimizer: torch.optim.Optimizer, progress: _Progress, folder: Path) -> None:
    state = {
        "learnables": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": progress.generator.get_state(),
        "progress": {"epoch": progress.epoch, "step": progress.step, "seconds": progress.seconds},
    }
    with replacing(folder / "checkpoint.pt") as path:
        torch.save(state, path)


def _resume(method: PromptMethod, optimizer: torch.optim.Optimizer, progress: _Progress, folder: Path | None) -> None:
    """Go on from the folder's checkpoint, where there is one; drop log lines of steps after it."""
    if folder is None:
        return
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        try:
            state = torch.load(checkpoint, weights_only=True)
            method.load_state_dict(state["learnables"])
            optimizer.load_state_dict(state["optimizer"])
            progress.generator.set_state(state["generator"])
            progress.epoch, progress.step, progress.seconds = (
                state["progress"][name] for name in ("epoch", "step", "seconds")
            )
        except Exception as error:  # the unpickler raises anything at all on a damaged file
            raise DataError(
                f"wanted the checkpoint of this run at {checkpoint}, got a file that cannot be gone on from "
                f"({type(error).__name__}): give --force to train from the start"
            ) from None
    log = folder / "log.jsonl"
    if log.exists():
        kept = log.read_bytes().splitlines(keepends=True)[: progress.step]
        log.write_bytes(b"".join(kept))
