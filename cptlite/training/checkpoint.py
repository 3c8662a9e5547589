"""What a training writes: the log, line by line, and the checkpoint to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cptlite.errors import DataError
from cptlite.files import replacing

__all__ = ["Progress", "resume", "save_checkpoint", "write_log"]


@dataclass(kw_only=True)
class Progress:
    """Where a run stands: what a checkpoint holds besides learnables and momenta."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    generator: torch.Generator = field(default_factory=torch.Generator)


def write_log(folder: Path | None, progress: Progress, losses: list[float], rate: float) -> None:
    """Append the steps of an epoch to ``log.jsonl``."""
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


def save_checkpoint(
    learnables: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, progress: Progress, folder: Path
) -> None:
    """Replace the folder's checkpoint."""
    state = {
        "learnables": {name: value.detach().clone() for name, value in learnables.items()},
        "optimizer": optimizer.state_dict(),
        "generator": progress.generator.get_state(),
        "progress": {"epoch": progress.epoch, "step": progress.step, "seconds": progress.seconds},
    }
    with replacing(folder / "checkpoint.pt") as path:
        torch.save(state, path)


def resume(
    learnables: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, progress: Progress, folder: Path | None
) -> None:
    """Go on from the folder's checkpoint, where there is one; drop log lines of steps after it.

    Raises
    ------
    DataError
        The checkpoint is damaged, or not of these learnables.
    """
    if folder is None:
        return
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        try:
            state = torch.load(checkpoint, weights_only=True)
            with torch.no_grad():
                for name, value in learnables.items():
                    value.copy_(state["learnables"][name])
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
