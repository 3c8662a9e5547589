"""A pass divided among processes or machines that share a folder: which parts each encodes, and who is at work.

A shard has whole parts, so that no two write one file. It encodes its rows in the batches of the undivided pass, whose
other rows are blank: the features are the same to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from cptlite.cache.parts import PartStore
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, UsageError
from cptlite.files import locked, write_whole

__all__ = ["Shard", "at_work", "refuse_shards", "taking_shard"]

FACTS = "shards.json"
MAX_FACTS_BYTES = 2**12


@dataclass(frozen=True)
class Shard:
    """One of the ``count`` shards of a pass, numbered from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard must be one of 1/N to N/N, got {self.index}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"1/4"``.

        Raises
        ------
        UsageError
            It is not of this form, or there is no such shard.
        """
        numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if numbers is None:
            raise UsageError(f"shard must be of the form I/N, as in 1/4, got {text!r}")
        return cls(int(numbers[1]), int(numbers[2]))

    def own_rows(
        self, num_rows: Mapping[str, int], batches: Mapping[str, int], part_rows: int
    ) -> dict[str, np.ndarray]:
        """Which rows of each split are this shard's.

        Parameters
        ----------
        num_rows : mapping of str to int
            Rows N by split.
        batches : mapping of str to int
            Rows of a batch by split. Parts that one batch spans go to one shard, where batches end with parts.
        part_rows : int
            Rows of a part.

        Returns
        -------
        dict of str to ndarray of shape (N,), bool
            Every row is one shard's, and all of a part are the same one's.
        """
        own, first = {}, 0
        for split, rows in num_rows.items():
            unit = part_rows * -(-batches[split] // part_rows)  # whole parts
            own[split] = (first + np.arange(rows) // unit) % self.count == self.index - 1
            first += -(-rows // unit)
        return own


@contextmanager
def taking_shard(store: PartStore, shard: Shard, batch_size: int) -> Iterator[None]:
    """Be the one process that encodes a shard; to be entered while the cache file is held.

    Raises
    ------
    CptliteError
        Another process is at this shard, or others are at shards that are cut otherwise.
    """
    facts = {"count": shard.count, "batch_size": batch_size}
    path, known = store.folder / FACTS, _read_facts(store)
    if known is not None and known != facts and at_work(store.target):
        raise CptliteError(
            f"wanted shards of one kind, got {shard.count} with --batch-size {batch_size} while others are at work on "
            f"{known.get('count')} with {known.get('batch_size')}: give the same, or wait until they are done"
        )
    if known != facts:
        write_whole(path, json.dumps(facts).encode())
    with locked(_lock_of(store.target, shard.index), store.target):
        yield


def at_work(target: Path) -> list[int]:
    """Numbers of the shards that processes are at; what killed ones left is tidied up."""
    busy = []
    for path in sorted(target.parent.glob(f".{escape(target.name)}.shard-*.lock")):
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            busy.append(int(path.name.rpartition("-")[2].removesuffix(".lock")))
    return busy


def refuse_shards(target: Path) -> None:
    """Keep an undivided pass from writing what the shards of another one write.

    Raises
    ------
    CptliteError
        Processes are at work on shards of the cache file.
    """
    if busy := at_work(target):
        raise CptliteError(
            f"other processes are at work on {len(busy)} shards of {shown(target)}: wait until they are done, or end "
            "them"
        )


def _lock_of(target: Path, index: int) -> Path:
    return target.with_name(f".{target.name}.shard-{index}.lock")


def _read_facts(store: PartStore) -> dict[str, int] | None:
    """How the shards at work are cut; None where nothing says so."""
    path = store.folder / FACTS
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= MAX_FACTS_BYTES:
            facts = json.loads(path.read_bytes())
            return facts if isinstance(facts, dict) else None
    return None
