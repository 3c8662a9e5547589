"""Cache files opened, checked against what is wanted, and read.

Axes: N rows of a split, n rows asked for, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np

from cptlite.cache.format import SCHEMA_VERSION, Fingerprint, differences
from cptlite.cache.structure import (
    BAD_COLUMNS,
    check_structure,
    read_attribute,
    read_fingerprint,
    read_tasks,
    read_texts,
)
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import CptliteError, DataError
from cptlite.files import file_kind

__all__ = ["BadImage", "FeatureCache", "damaged", "open_cache", "reading"]

SHOWN_DIGITS = 12
ALL = slice(None)


class BadImage(NamedTuple):
    """An image that could not be read: its split, its path relative to the dataset's folder, and why."""

    split: str
    path: str
    reason: str


class FeatureCache:
    """An open cache file; a context manager. Made by `open_cache`.

    Attributes
    ----------
    path : Path
    file : h5py.File
        For what the methods do not offer.
    attributes : dict
        Those of the file's root as plain Python values.
    fingerprint : Fingerprint
    tasks : tuple of Task
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file
        self.array = "features"  # which is read for them
        with reading(path):
            self.attributes, self.fingerprint = read_fingerprint(file)
            check_structure(file, self.fingerprint, path.stat().st_size)
            self.tasks = read_tasks(file["tasks"])
            if self.attributes["bad_images"] != len(file["bad"][BAD_COLUMNS[0]]):
                raise ValueError("the number of unreadable images differs from their list")

    def num_rows(self, split: str) -> int:
        """Rows N of a split, 0 if the dataset lacks it."""
        with reading(self.path):
            return int(self.file[split]["labels"].shape[0])

    def labels(self, split: str, part: slice = ALL) -> np.ndarray:
        """Class within the row's task: shape (N,), int32, or those of a part of the rows."""
        return self._read(split, "labels", part)

    def row_tasks(self, split: str, part: slice = ALL) -> np.ndarray:
        """Index of the row's task in `tasks`: shape (N,), int32, or those of a part of the rows."""
        return self._read(split, "tasks", part)

    def paths(self, split: str) -> tuple[str, ...]:
        """Image paths relative to the dataset's folder."""
        with reading(self.path):
            return read_texts(self.file[split]["paths"])

    def features(
        self, split: str, rows: np.ndarray | Sequence[int] | None = None, views: int | Sequence[int] | None = None
    ) -> np.ndarray:
        """Read features as they came out of the tower, not unit length.

        Parameters
        ----------
        split : str
        rows : sequence of int, optional
            In any order, repeats allowed; all rows by default.
        views : int or sequence of int, optional
            Some of the views; all by default. View 0 is the plain one, and the only one of "val" and "test".

        Returns
        -------
        ndarray of shape (n, V, D), in the stored number type
        """
        found = self._read_rows(split, self.array, rows)
        return found if views is None else found[:, np.atleast_1d(np.asarray(views))]

    def patches(self, split: str, rows: np.ndarray | Sequence[int] | None = None) -> np.ndarray:
        """Read the plain view's patch features, not unit length.

        Parameters
        ----------
        split : str
        rows : sequence of int, optional
            As in `features`. A row of ViT-B/16 takes 196 times what its pooled feature takes.

        Returns
        -------
        ndarray of shape (n, M, D), in the stored number type

        Raises
        ------
        DataError
            The cache was made without them.
        """
        if not self.fingerprint.local:
            raise DataError(
                f"wanted patch features in {self.path}, got a cache without them: make it anew with "
                f"`cptlite cache --patches --force --dataset {self.fingerprint.dataset} "
                f"--backbone {self.fingerprint.backbone}`"
            )
        return self._read_rows(split, "local", rows)

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images of the dataset left out because they could not be read."""
        with reading(self.path):
            columns = [read_texts(self.file["bad"][name]) for name in BAD_COLUMNS]
        return tuple(BadImage(*row) for row in zip(*columns, strict=True))

    def check(self, expected: Fingerprint | Mapping[str, Any]) -> None:
        """Refuse to go on with other features than expected.

        Parameters
        ----------
        expected : Fingerprint or mapping
            What the features must be; a mapping may hold some of `Fingerprint`'s fields.

        Raises
        ------
        DataError
            They differ: the message names each field with both values.
        """
        different = differences(self.fingerprint, expected)
        if different:
            changed = "; ".join(
                f"{name} is {_shown(found)} there, {_shown(wanted)} asked" for name, found, wanted in different
            )
            raise DataError(
                f"{self.path} does not hold what was asked: {changed}. Ask for what it holds, give another "
                f"--cache-dir, or replace it with `cptlite cache --force`"
            )

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self.file.close()

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, split: str, name: str, part: slice = ALL) -> np.ndarray:
        with reading(self.path):
            return self.file[split][name][part]

    def _read_rows(self, split: str, name: str, rows: np.ndarray | Sequence[int] | None) -> np.ndarray:
        if rows is None:
            return self._read(split, name)
        chosen, count = np.asarray(rows, dtype=np.int64), self.num_rows(split)
        if chosen.size and not (0 <= chosen.min() and chosen.max() < count):
            raise IndexError(f"rows must lie in [0, {count}), got {chosen.min()} to {chosen.max()}")
        with reading(self.path):
            return _chosen_rows(self.file[split][name], chosen)


def open_cache(path: Path, expected: Fingerprint | Mapping[str, Any] | None = None) -> FeatureCache:
    """Open a cache file, if it is one and holds what is expected.

    Parameters
    ----------
    path : Path
    expected : Fingerprint or mapping, optional
        As in `FeatureCache.check`.

    Returns
    -------
    FeatureCache
        To be closed, or used as a context manager. It does not hinder a process that replaces the file meanwhile.

    Raises
    ------
    DataError
        There is no such file, it is not a cache file or of another schema version, or it differs from what is
        expected.
    """
    path = Path(path)
    file = _open_file(path)
    try:
        with reading(path):
            _check_schema(path, file)
        cache = FeatureCache(path, file)
        if expected is not None:
            cache.check(expected)
    except BaseException:
        file.close()
        raise
    return cache


def _open_file(path: Path) -> h5py.File:
    """Open a file, which is looked at before: opening a pipe would wait for its other end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(
            f"no feature cache at {path} ({error.strerror}): make it with `cptlite cache --dataset {path.stem}` "
            f"and the same --backbone, or give another --cache-dir"
        ) from None
    if not stat.S_ISREG(mode):
        raise DataError(
            f"wanted a feature cache at {path}, got {file_kind(mode)}: move it away or give another --cache-dir"
        )
    try:
        return h5py.File(path, "r", locking=False)
    except Exception as error:  # HDF5 raises a dozen kinds on damaged files
        if "already open" in str(error):
            raise DataError(
                f"{path} is in use by another process, which has it open for writing: wait until it is done, or "
                f"close it there; if none has it open, one was stopped while it wrote: make it anew with "
                f"`cptlite cache --force`"
            ) from None
        raise DataError(
            f"wanted a feature cache at {path}, got a file that cannot be read as HDF5 ({shown(error)}): "
            f"delete it or give another --cache-dir, then run `cptlite cache` again"
        ) from None


def _check_schema(path: Path, file: h5py.File) -> None:
    if "schema_version" not in file.attrs or not {*SPLITS, "tasks"} <= file.keys():
        raise DataError(
            f"wanted a feature cache at {path}, got another kind of HDF5 file (no schema_version, or no groups "
            f"{', '.join(SPLITS)} and tasks): move it away or give another --cache-dir"
        )
    version = read_attribute(file, "schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} is of schema version {version}, this release of cptlite reads {SCHEMA_VERSION}: "
            f"cache the dataset anew with --force, or use the release that made it"
        )


def _shown(value: Any) -> str:
    """Digests are cut: their first digits tell them apart."""
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"{value[:SHOWN_DIGITS]}..."
    return repr(value)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into a `DataError`."""
    try:
        yield
    except CptliteError:
        raise
    except MemoryError:
        raise CptliteError(f"not enough memory to read {path}: close other programs, or ask for fewer rows") from None
    except Exception as error:  # h5py raises a dozen kinds on damaged files
        raise damaged(path, str(error) or type(error).__name__) from None


def damaged(path: Path, reason: str) -> DataError:
    """Error for a file that is a cache but does not hold what it should."""
    reason = shown(reason)  # HDF5 repeats names of the file
    return DataError(f"the feature cache {path} is damaged ({reason}): make it anew with `cptlite cache --force`")


def _chosen_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Chunks that hold the rows are read, each once, and no others: h5py's own way is slow on many scattered rows."""
    found = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)  # (n, V, D) or (n, M, D)
    size = dataset.chunks[0]
    order = np.argsort(rows, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(rows[order] // size)) + 1) if len(rows) else ():
        start = rows[here[0]] // size * size
        found[here] = dataset[start : start + size][rows[here] - start]
    return found
