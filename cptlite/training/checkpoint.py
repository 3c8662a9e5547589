"""What a training writes: the log, line by line, and the checkpoint to go on from.

Both say when they are damaged. A line of the log ends with the CRC-32 of what stands before it; the checkpoint begins
with a line of text that holds the SHA-256 of what follows, which is as `torch.save` wrote it. Files of earlier versions
have neither, and are taken as they are.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from cptlite.backbones.archives import read_torch
from cptlite.errors import DataError
from cptlite.files import naming_full_disk, read_file, sha256_of, write_whole

__all__ = ["LOG", "Resumable", "check_log", "read_log", "resume", "save_checkpoint", "write_log"]

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
HEADER = re.compile(rb"cptlite checkpoint, sha256 ([0-9a-f]{64})\n")
ZIP = b"PK\x03\x04"  # what a checkpoint without a header begins with
LOGGED = {"step", "epoch", "loss", "lr", "seconds"}


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
    """Append a line for each step to ``log.jsonl``, or none where the disk is full."""
    path = folder / LOG
    before = path.stat().st_size if path.exists() else 0
    try:
        with naming_full_disk(folder), path.open("ab") as log:
            log.writelines(_log_line(step) for step in steps)
    except BaseException:
        if path.exists():
            os.truncate(path, before)
        raise


def read_log(folder: Path) -> list[dict[str, float]]:
    """Read the steps in ``log.jsonl``, whose lines are all whole.

    Raises
    ------
    DataError
        A line is damaged or missing.
    OSError
        There is no log.
    """
    return _check_lines(folder / LOG, read_file(folder / LOG).splitlines(keepends=True))


def check_log(folder: Path, steps: int) -> None:
    """Refuse to go on where the log has not a whole line for each step: somebody may have removed it meanwhile.

    Raises
    ------
    DataError
        It says how many lines there are.
    """
    found = len(read_log(folder)) if (folder / LOG).exists() else 0
    if found != steps:
        raise _damaged_log(folder / LOG, f"{found} lines for {steps} steps")


def save_checkpoint(folder: Path, state: Resumable) -> None:
    """Replace the folder's checkpoint; the log is on the disk before it."""
    if (folder / LOG).exists():
        with (folder / LOG).open("rb+") as log:
            os.fsync(log.fileno())
    buffer = io.BytesIO()  # on a full disk PyTorch's own writer raises what cannot be told from other errors
    torch.save(state.state_dict(), buffer)
    content = buffer.getvalue()
    write_whole(folder / CHECKPOINT, f"cptlite checkpoint, sha256 {sha256_of(content)}\n".encode() + content)


def resume(folder: Path, state: Resumable) -> None:
    """Go on from the folder's checkpoint, where there is one; drop log lines of steps after it.

    Raises
    ------
    DataError
        The checkpoint or the log is damaged, or not of this run.
    """
    checkpoint, log = folder / CHECKPOINT, folder / LOG
    counted = False  # whether the log is known to have a line for each step
    if checkpoint.exists():
        stored = read_file(checkpoint)
        try:
            header, content = _take_header(stored)
            state.load_state_dict(read_torch(io.BytesIO(content)))
        except Exception as error:  # the reader raises anything at all on a damaged file
            raise DataError(
                f"wanted the checkpoint of this run at {checkpoint}, got a file that cannot be gone on from "
                f"({error if isinstance(error, _Damaged) else type(error).__name__}): give --force to train from the "
                f"start"
            ) from None
        counted = bool(header)
    lines = read_file(log).splitlines(keepends=True) if log.exists() else []
    kept = lines[: state.steps_done]
    _check_lines(log, kept)
    if counted and len(kept) < state.steps_done:
        raise _damaged_log(log, f"{len(kept)} lines for {state.steps_done} steps")
    if len(kept) < len(lines):
        write_whole(log, b"".join(kept))


class _Damaged(Exception):
    """The message says how."""


def _take_header(content: bytes) -> tuple[bytes, bytes]:
    """Header, empty in a file of an earlier version, and what `torch.save` wrote."""
    found = HEADER.match(content)
    if not found and not content.startswith(ZIP):
        raise _Damaged("no checkpoint of cptlite")
    header = found[0] if found else b""
    content = content[len(header) :]
    if found and sha256_of(content) != found[1].decode():
        raise _Damaged("its checksum is not that of its content")
    return header, content


def _log_line(step: dict[str, float]) -> bytes:
    return (json.dumps({**step, "crc32": zlib.crc32(json.dumps(step).encode())}) + "\n").encode()


def _check_lines(log: Path, lines: Sequence[bytes]) -> list[dict[str, float]]:
    """Parse lines of a log, the first of which is of step 0."""
    steps = []
    for number, line in enumerate(lines):
        try:
            step = json.loads(line)
            checked = step.pop("crc32", None) is not None
            whole = step.keys() == LOGGED and step["step"] == number and (not checked or _log_line(step) == line)
        except (ValueError, RecursionError, AttributeError, TypeError):  # JSON, but no table
            whole = False
        if not whole:
            raise _damaged_log(log, f"line {number + 1} is damaged")
        steps.append(step)
    return steps


def _damaged_log(log: Path, reason: str) -> DataError:
    return DataError(f"wanted the log of this run at {log}, got a damaged one ({reason}): give --force to train anew")
