"""Cache files written by one process at a time, under a temporary name, then renamed.

Axes: N rows of a split, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import cptlite
from cptlite.cache.format import (
    LIBRARY_VERSION,
    SCHEMA_VERSION,
    Fingerprint,
    task_key,
    write_dataset,
    write_texts,
    write_value,
)
from cptlite.cache.read import BadImage
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS, Task
from cptlite.errors import DataError
from cptlite.files import locked, naming_full_disk, replacing

__all__ = ["SplitContent", "has_leftovers", "origin", "replace_words", "write_cache", "writing"]

# Unfilled chunks, tasks, and HDF5's own structures.
SLACK_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class SplitContent:
    """The rows of one split, to be written.

    Attributes
    ----------
    labels, tasks : ndarray of shape (N,), int32
        As in `Rows`.
    paths : sequence of str
    shape : tuple of int
        (N, V, D) of all blocks together.
    blocks : iterable of ndarray of shape (n, V, D)
        Features in row order; read once.
    patch_blocks : iterable of ndarray of shape (n, M, D)
        Patch features in row order, where the fingerprint says that there are any; read once, after ``blocks``.
    pre_blocks : iterable of ndarray of shape (n, V, I)
        Features before the projection in row order, where the fingerprint says so; read once, at the end.
    """

    labels: np.ndarray
    tasks: np.ndarray
    paths: Sequence[str]
    shape: tuple[int, int, int]
    blocks: Iterable[np.ndarray]
    patch_blocks: Iterable[np.ndarray] = ()
    pre_blocks: Iterable[np.ndarray] = ()


def write_cache(
    path: Path,
    *,
    fingerprint: Fingerprint,
    tasks: Sequence[Task],
    splits: Mapping[str, SplitContent],
    facts: Mapping[str, str],
    bad: Sequence[BadImage] = (),
) -> None:
    """Write a cache file; it is there, whole, when this returns, and not before.

    Parameters
    ----------
    path : Path
        In a folder that exists; replaced if it is there.
    fingerprint : Fingerprint
    tasks : sequence of Task
    splits : mapping of str to SplitContent
        Keys are those of `SPLITS`.
    facts : mapping of str to str
        Further attributes that say how the features came about, see `origin`.
    bad : sequence of BadImage
        Images left out.
    """
    with replacing(path) as temporary:
        _probe_space(temporary, sum(_num_bytes(splits[name], fingerprint, name) for name in splits))
        with h5py.File(temporary, "w", libver=LIBRARY_VERSION, locking=False) as file:
            _write_attributes(file, fingerprint, {**facts, "bad_images": len(bad)})
            _write_tasks(file, tasks)
            for split in SPLITS:
                shapes = fingerprint.arrays(split, splits[split].shape[-1])
                _write_split(file.create_group(split), splits[split], shapes, fingerprint.dtype)
            group = file.create_group("bad")
            for index, name in enumerate(BadImage._fields):
                write_texts(group, name, [image[index] for image in bad])


def origin(device: torch.device) -> dict[str, str]:
    """Say what features that are encoded here and now come from: versions, and the device's name."""
    return {
        "torch_version": torch.__version__,
        "clip_version": _clip_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _clip_version() -> str:
    for package in ("clip-anytorch", "clip"):
        with suppress(PackageNotFoundError):
            return f"{package} {version(package)}"
    return "unknown"


def _num_bytes(content: SplitContent, fingerprint: Fingerprint, split: str) -> int:
    """Size of a split on disk, but for what `SLACK_BYTES` covers."""
    longest_path = max((len(path.encode()) for path in content.paths), default=0)
    rows, _, dim = content.shape
    row_bytes = fingerprint.row_numbers(split, dim) * np.dtype(fingerprint.dtype).itemsize
    return rows * (row_bytes + longest_path + 8)


def _probe_space(path: Path, num_bytes: int) -> None:
    """Raise OSError here if the disk is full: when HDF5 meets a full disk, it may end the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes + SLACK_BYTES)


def replace_words(path: Path, tasks: Sequence[Task]) -> None:
    """Replace the tasks of a cache file, whose classes stay; a reader sees the old file or the new one."""
    with replacing(path) as temporary:
        _probe_space(temporary, path.stat().st_size)
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+", libver=LIBRARY_VERSION, locking=False) as file:
            del file["tasks"]
            _write_tasks(file, tasks)


def _write_attributes(file: h5py.File, fingerprint: Fingerprint, facts: Mapping[str, Any]) -> None:
    values = {
        "schema_version": SCHEMA_VERSION,
        "cptlite_version": cptlite.__version__,
        **asdict(fingerprint),
        **facts,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, value in values.items():
        write_value(file, name, value)


def _write_tasks(file: h5py.File, tasks: Sequence[Task]) -> None:
    root = file.create_group("tasks")
    for index, task in enumerate(tasks):
        group = root.create_group(task_key(task.id))
        group.attrs["index"] = index
        for name in ("id", "name", "template", "metric"):
            write_value(group, name, getattr(task, name))
        write_texts(group, "classnames", list(task.class_names))


def _write_split(group: h5py.Group, content: SplitContent, shapes: Mapping[str, tuple[int, int]], dtype: str) -> None:
    """Write a split, whose arrays of features have some shapes a row."""
    rows = content.shape[0]
    assert rows == len(content.labels) == len(content.tasks) == len(content.paths)
    blocks = {"features": content.blocks, "local": content.patch_blocks, "pre": content.pre_blocks}
    for name, shape in shapes.items():
        dataset, start = write_dataset(group, name, (rows, *shape), dtype), 0
        for block in blocks[name]:  # no more than one is in memory
            dataset[start : start + len(block)] = block
            start += len(block)
        assert start == rows
    for name, values in (("labels", content.labels), ("tasks", content.tasks)):
        write_dataset(group, name, (rows,), np.int32)[:] = values
    write_texts(group, "paths", list(content.paths))


@contextmanager
def writing(path: Path, *, lock: bool = True, wait: float = 0.0) -> Iterator[None]:
    """Be the one process that writes a cache file; tidy up after killed ones.

    Parameters
    ----------
    path : Path
        Its folder is made.
    lock : bool
        False leaves it to the caller that no other process writes the file.
    wait : float
        Seconds to wait for another process that is writing it.

    Raises
    ------
    CptliteError
        Another process is writing it, the disk is full, or the file system has no locks.
    DataError
        The folder cannot be written to.
    """
    folder = path.parent
    try:
        with naming_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(_lock_of(path), path, wait=wait) if lock else nullcontext():
                for leftover in _temporary_files(path):
                    leftover.unlink()
                yield
    except OSError as error:
        raise DataError(
            f"cannot write to {shown(folder)} ({shown(error)}): give a folder you may write to with --cache-dir"
        ) from error


def has_leftovers(path: Path) -> bool:
    """Whether a killed process left a lock or a temporary file beside a cache file."""
    return _lock_of(path).exists() or any(_temporary_files(path))


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _temporary_files(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{escape(path.name)}.*.tmp")
