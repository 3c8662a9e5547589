"""What is odd about a dataset that can be read: said in a line each, so that nothing is lost without a word."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cptlite.datasets.listed import path_key
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS, Dataset, Rows, Task
from cptlite.errors import DataError

__all__ = ["counted", "doubled_rows", "refuse_warnings", "same_bytes", "short_classes"]

EDGE = 4096  # bytes at either end of a file that are compared before all of it is
WORDS = {"train": "train", "val": "validation", "test": "test"}


def counted(names: Collection[str], singular: str, plural: str) -> str:
    """Write how many there are and which, or the first of them: "2 folders (a, b)"."""
    first = [shown(name) for name in sorted(names)[:3]]
    more = ", ..." if len(names) > len(first) else ""
    return f"{len(names)} {singular if len(names) == 1 else plural} ({', '.join(first)}{more})"


def doubled_rows(splits: Mapping[str, Sequence[tuple[str, int, int]]]) -> list[str]:
    """Count images that a list names twice, by the splits they are in.

    Parameters
    ----------
    splits : mapping of str to sequence of (path, label, task index)
        The rows. The same image in two tasks is none of these.

    Returns
    -------
    list of str
        A sentence for each pair of splits that has such images.
    """
    homes: dict[tuple[str, int], str] = {}
    doubled: dict[tuple[str, str], list[str]] = defaultdict(list)
    for split in SPLITS:
        for path, _, task in splits.get(split, ()):
            key = (path_key(path), task)
            if key in homes:
                doubled[homes[key], split].append(path)
            homes.setdefault(key, split)
    return [
        f"images both in {WORDS[home]} and {WORDS[split]}: {_examples(paths)}"
        if home != split
        else f"images listed twice in {WORDS[home]}: {_examples(paths)}"
        for (home, split), paths in doubled.items()
    ]


def _examples(paths: Sequence[str]) -> str:
    return f"{len(paths)} (the first: {shown(paths[0])})"


def short_classes(tasks: Sequence[Task], splits: Mapping[str, Rows]) -> list[str]:
    """Name the classes that have no training or no test rows, where the dataset has such rows at all.

    Parameters
    ----------
    tasks : sequence of Task
        Their classes are the ones to find.
    splits : mapping of str to Rows
        The rows.

    Returns
    -------
    list of str
        At most one sentence for training and one for testing.
    """
    lines = []
    for split in ("train", "test"):
        rows = splits[split]
        if not len(rows):
            lines += ["no test rows at all"] if split == "test" else []
            continue
        without = [
            name if len(tasks) == 1 else f"{name} of {task.name}"
            for index, task in enumerate(tasks)
            for name, count in zip(task.class_names, _class_counts(rows, index, len(task.class_names)), strict=True)
            if not count
        ]
        if without:
            lines.append(f"without {WORDS[split]} rows: {counted(without, 'class', 'classes')}")
    return lines


def _class_counts(rows: Rows, task: int, num_classes: int) -> np.ndarray:
    """Rows of each class of a task, (K,)."""
    return np.bincount(rows.labels[rows.tasks == task], minlength=num_classes)  # (K,)


def same_bytes(dataset: Dataset) -> list[str]:
    """Count validation and test images that are byte for byte an image of an earlier split under another name.

    Only files of one size are opened, and of those only the two ends unless these agree.

    Parameters
    ----------
    dataset : Dataset
        Files that are missing or no files are passed over.

    Returns
    -------
    list of str
        A sentence for each pair of splits that has such images.
    """
    groups = [
        [
            _File(split, path, int(task), dataset.image_root / path)
            for split in SPLITS
            for path, task in zip(dataset.splits[split].paths, dataset.splits[split].tasks, strict=True)
        ]
    ]
    for digest in (_size, _ends, _content):
        groups = _across_splits(groups, digest)
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for first, *others in groups:
        for other in others:
            if other.split != first.split:
                shared[first.split, other.split].append(f"{other.path} is {first.path}")
    return [
        f"the same bytes in {WORDS[first]} and {WORDS[second]}: {_examples(pairs)}"
        for (first, second), pairs in shared.items()
    ]


def refuse_warnings(warnings: Mapping[str, Sequence[str]]) -> None:
    """Make an error of what is odd about datasets, by name: what ``--strict`` asks for.

    Raises
    ------
    DataError
        When there is anything; the message has a line for each.
    """
    odd = [f"{name}: {line}" for name, lines in warnings.items() for line in lines]
    if odd:
        raise DataError("\n  ".join(("--strict wants data of which nothing is left out, doubled or short, got", *odd)))


class _File(NamedTuple):
    split: str
    path: str
    task: int
    place: Path


def _across_splits(groups: Iterable[list[_File]], digest: Callable[[_File], Hashable]) -> list[list[_File]]:
    """Part groups of files by a digest and keep the parts that have files of two splits under two names."""
    kept = []
    for group in groups:
        parts: dict[Hashable, list[_File]] = defaultdict(list)
        for file in group:
            with suppress(OSError, ValueError):  # missing: the pass over the images counts it
                parts[digest(file)].append(file)
        parts.pop(None, None)
        for part in parts.values():
            if len({file.split for file in part}) > 1 and len({file.path for file in part}) > 1:
                kept.append(part)
    return kept


def _size(file: _File) -> tuple[int, int] | None:
    """Bytes of a file, by task; None for what is no file."""
    found = os.stat(file.place)
    return (file.task, found.st_size) if stat.S_ISREG(found.st_mode) and found.st_size else None


def _ends(file: _File) -> bytes:
    with file.place.open("rb") as opened:
        start = opened.read(EDGE)
        opened.seek(-len(start), os.SEEK_END)
        return hashlib.sha256(start + opened.read(EDGE)).digest()


def _content(file: _File) -> bytes:
    with file.place.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
