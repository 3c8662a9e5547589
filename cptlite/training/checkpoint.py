"""What a training writes: the log, line by line, and the checkpoint to go on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from cptlite.errors import DataError
from cptlite.files import replacing

__all__ = ["Resumable", "resume", "save_checkpoint", "write_log"]

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


class Resumable(Protocol):
    """What a checkpoint is of: it says its state as PyTorch's modules and optimisers do."""

    steps_done: int

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs: tensors, numbers and texts in dicts and lists."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` said; any exception where that does not fit."""
        ...


def write_log(folder: Path, steps: Sequence[dict[str, float]]) -> None:
    """Append a line for each step to ``log.jsonl``."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(step) + "\n" for step in steps)


def save_checkpoint(folder: Path, state: Resumable) -> None:
    """Replace the folder's checkpoint."""
    with replacing(folder / CHECKPOINT) as path:
        torch.save(state.state_dict(), path)


def resume(folder: Path, state: Resumable) -> None:
    """Go on from the folder's checkpoint, where there is one; drop log lines of steps after it.

    Raises
    ------
    DataError
        The checkpoint is damaged, or not of this run.
    """
    checkpoint, log = folder / CHECKPOINT, folder / LOG
    if checkpoint.exists():
        try:
            state.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
        except Exception as error:  # the unpickler raises anything at all on a damaged file
            raise DataError(
                f"wanted the checkpoint of this run at {checkpoint}, got a file that cannot be gone on from "
                f"({type(error).__name__}): give --force to train from the start"
            ) from None
    if log.exists():
        kept = log.read_bytes().splitlines(keepends=True)[: state.steps_done]
        log.write_bytes(b"".join(kept))
