"""What is odd about a dataset that can be read: said in a line each, so that nothing is lost without a word."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from cptlite.datasets.listed import path_key
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS, Dataset, Rows, Task
from cptlite.errors import DataError

__all__ = ["Labelled", "counted", "doubled_rows", "refuse_warnings", "same_bytes", "short_classes"]

NONE = -1
PART = 512  # files that a thread looks at in one go
THREADS = 16
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


class Labelled(NamedTuple):
    """Rows without their paths: labels and tasks, (N,) each, as in `Rows`."""

    labels: np.ndarray
    tasks: np.ndarray


def short_classes(tasks: Sequence[Task], splits: Mapping[str, Rows | Labelled], shots: int = 1) -> list[str]:
    """Name the classes that have no training or no test rows, where the dataset has such rows at all.

    Parameters
    ----------
    tasks : sequence of Task
        Their classes are the ones to find.
    splits : mapping of str to Rows or Labelled
        The rows of "train" and "test", or of one of them.
    shots : int
        Training rows that every class should have; it is named too where it has fewer, but some.

    Returns
    -------
    list of str
        At most one sentence for each kind.
    """
    lines = []
    for split in [split for split in ("train", "test") if split in splits]:
        rows = splits[split]
        if not len(rows.labels):
            lines += ["no test rows at all"] if split == "test" else []
            continue
        counts = np.concatenate([_class_counts(rows, index, task) for index, task in enumerate(tasks)])  # (K,)
        names = [name if len(tasks) == 1 else f"{name} of {task.name}" for task in tasks for name in task.class_names]
        kinds = {f"without {WORDS[split]} rows": counts == 0}
        if split == "train":
            kinds[f"with fewer train rows than {shots} shots"] = (counts > 0) & (counts < shots)
        for kind, there in kinds.items():
            if there.any():
                lines.append(f"{kind}: {counted([names[k] for k in np.flatnonzero(there)], 'class', 'classes')}")
    return lines


def _class_counts(rows: Rows | Labelled, index: int, task: Task) -> np.ndarray:
    """Rows of each class of a task, (C,)."""
    return np.bincount(rows.labels[rows.tasks == index], minlength=len(task.class_names))


def same_bytes(dataset: Dataset) -> list[str]:
    """Count validation and test images that are byte for byte an image of an earlier split under another name.

    Only files of one size are opened, and of those only the two ends unless these agree. A few numbers a file are in
    memory, and threads wait for the disk: there may be millions of files.

    Parameters
    ----------
    dataset : Dataset
        Files that are missing or no files are passed over.

    Returns
    -------
    list of str
        A sentence for each pair of splits that has such images.
    """
    files = _Files(dataset)
    groups = files.tasks.astype(np.int64)
    kept = np.arange(len(files.paths))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="same-bytes") as pool:
        for digest in (_size, _ends, _content):
            kept, groups = files.across_splits(kept, groups, files.digests(digest, kept, pool))
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for first, *others in _parts(kept, groups):
        for other in others:
            if files.splits[other] != files.splits[first]:
                pair = SPLITS[files.splits[first]], SPLITS[files.splits[other]]
                shared[pair].append(f"{files.paths[other]} is {files.paths[first]}")
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


class _Files:
    """The files of a dataset by number: N paths, splits and tasks."""

    def __init__(self, dataset: Dataset) -> None:
        rows = [dataset.splits[split] for split in SPLITS]
        self.folder = str(dataset.image_root)
        self.paths = [path for of_split in rows for path in of_split.paths]
        self.names = np.fromiter(map(hash, self.paths), np.int64, len(self.paths))  # (N,), equal for one name
        self.splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(of_split) for of_split in rows])  # (N,)
        self.tasks = np.concatenate([of_split.tasks for of_split in rows])  # (N,)

    def digests(self, digest: Callable[[str], int], numbers: np.ndarray, pool: Executor) -> np.ndarray:
        """Digests of some files (n,), int64; NONE of those that cannot be read."""

        def of_part(part: np.ndarray) -> np.ndarray:
            return np.fromiter((self._digest(digest, number) for number in part.tolist()), np.int64, len(part))

        parts = [numbers[start : start + PART] for start in range(0, len(numbers), PART)]
        return np.concatenate([np.empty(0, np.int64), *pool.map(of_part, parts)])

    def _digest(self, digest: Callable[[str], int], number: int) -> int:
        with suppress(OSError, ValueError):  # missing: the pass over the images counts it
            return digest(os.path.join(self.folder, self.paths[number]))
        return NONE

    def across_splits(
        self, numbers: np.ndarray, groups: np.ndarray, digests: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Part groups of files by a digest and keep the parts with files of two splits under two names."""
        numbers, groups, digests = (each[digests != NONE] for each in (numbers, groups, digests))
        order = np.lexsort((digests, groups))  # stable: of a part, files stay in their order
        numbers, groups, digests = numbers[order], groups[order], digests[order]
        new = (np.diff(groups, prepend=NONE) != 0) | (np.diff(digests, prepend=NONE) != 0)  # (n,)
        if not len(new):
            return numbers, groups
        starts, parts = np.flatnonzero(new), np.cumsum(new) - 1
        kept = np.ones(len(starts), bool)
        for values in (self.splits[numbers], self.names[numbers]):
            kept &= np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts)
        return numbers[kept[parts]], parts[kept[parts]]


def _parts(numbers: np.ndarray, groups: np.ndarray) -> Iterator[list[int]]:
    """Numbers of each group, which stand side by side."""
    for part in np.split(numbers, np.flatnonzero(np.diff(groups)) + 1) if len(numbers) else ():
        yield part.tolist()


def _size(path: str) -> int:
    """Bytes of a file; NONE for what is no file, or empty."""
    found = os.stat(path)
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_size else NONE


def _ends(path: str) -> int:
    with open(path, "rb", buffering=0) as opened:
        start = opened.read(EDGE)
        if opened.seek(0, os.SEEK_END) > EDGE:
            opened.seek(-EDGE, os.SEEK_END)
            start += opened.read(EDGE)
    return _number(hashlib.sha256(start))


def _content(path: str) -> int:
    with open(path, "rb") as opened:
        return _number(hashlib.file_digest(opened, "sha256"))


def _number(digest: Any) -> int:
    """63 bits of a digest, which no two of a million files share by chance."""
    return int.from_bytes(digest.digest()[:8], "big") >> 1
