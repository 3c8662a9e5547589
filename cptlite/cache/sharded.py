"""A pass divided among processes of this machine: each with a backbone of its own and its share of the cores."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from cptlite.backbones import Backbone, load_backbone
from cptlite.backbones.images import count_workers
from cptlite.cache.encode import PART_ROWS, EncodeReport, encode_dataset
from cptlite.cache.encode_pass import OnProgress
from cptlite.cache.format import cache_path
from cptlite.cache.shards import Shard
from cptlite.datasets.types import Dataset
from cptlite.errors import CptliteError, UsageError
from cptlite.process import keep_freed_memory

__all__ = ["encode_sharded"]

LOOK_EVERY = 0.5  # seconds between two looks at the parts that are there


def encode_sharded(
    dataset: Dataset,
    backbone: Backbone,
    chosen: Mapping[str, str],
    cache_dir: Path,
    shards: int,
    *,
    on_progress: OnProgress | None = None,
    workers: int | None = None,
    force: bool = False,
    **settings: Any,
) -> EncodeReport:
    """Encode all images of a dataset as `encode_dataset` does, in several processes at once.

    Parameters
    ----------
    dataset : Dataset
    backbone : Backbone
    chosen : mapping of str to str
        Arguments of `load_backbone`, which each process calls for one of its own.
    cache_dir : Path
    shards : int
        Processes. Each computes with this process's threads divided by them, at least one.
    on_progress : callable, optional
        Called now and then with rows whose parts are there, about, all rows, and "".
    workers : int, optional
        Threads that read images, of each process; by default the cores divided by the processes.
    settings
        As those of `encode_dataset`, but for ``lock``, which shards cannot do without.

    Returns
    -------
    EncodeReport
        Of all processes together, with the time of the slowest.

    Raises
    ------
    UsageError
        Fewer than one process is asked for.
    CptliteError
        As `encode_dataset`, or a process ended before its work did: what is finished stays.
    """
    if shards < 1:
        raise UsageError(f"shards must be at least 1, got {shards}")
    if not force and cache_path(cache_dir, backbone.slug, dataset.name).exists():
        return encode_dataset(dataset, backbone, cache_dir, **settings)
    threads = max(1, torch.get_num_threads() // shards)
    settings |= {"workers": max(1, count_workers(None) // shards) if workers is None else workers, "force": force}
    calls = (
        delayed(_encode)(dataset, dict(chosen), cache_dir, Shard(index, shards), threads, settings)
        for index in range(1, shards + 1)
    )
    try:
        with _looking(dataset, cache_dir, backbone.slug, settings.get("part_rows", PART_ROWS), on_progress):
            reports = Parallel(n_jobs=shards, batch_size=1, pre_dispatch="all", initializer=_ignore_interrupts)(calls)
    except BrokenProcessPool:
        raise CptliteError(
            f"a process that encoded a part of {dataset.name} was ended from outside, for want of memory perhaps: run "
            "the same command again, which goes on with what is finished, or give fewer --shards"
        ) from None
    return _together(reports)


def _encode(
    dataset: Dataset, chosen: dict[str, str], cache_dir: Path, shard: Shard, threads: int, settings: dict[str, Any]
) -> EncodeReport:
    """Encode a shard, in a process of its own."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return encode_dataset(dataset, load_backbone(**chosen), cache_dir, shard=shard, **settings)


def _together(reports: list[EncodeReport]) -> EncodeReport:
    """Report of the shard that joined all, with the rows that each has encoded."""
    last = min(reports, key=lambda report: (not report.complete, report.complete_already, report.missing_rows))
    encoded = sum(report.encoded_rows for report in reports)
    resumed = 0 if last.complete_already else last.rows - last.missing_rows - len(last.bad) - encoded
    seconds = max(report.seconds for report in reports)
    return replace(last, encoded_rows=encoded, resumed_rows=max(0, resumed), seconds=seconds)


@contextmanager
def _looking(
    dataset: Dataset, cache_dir: Path, slug: str, part_rows: int, on_progress: OnProgress | None
) -> Iterator[None]:
    """Say now and then how many rows lie in parts that are there."""
    if on_progress is None:
        yield
        return
    total, done = sum(map(len, dataset.splits.values())), threading.Event()
    path = cache_path(cache_dir, slug, dataset.name)
    pattern = f".{escape(path.name)}.parts-*/*-*.npz"

    def look() -> None:
        while not done.wait(LOOK_EVERY):
            on_progress(min(total, part_rows * sum(1 for _ in path.parent.glob(pattern))), total, "")

    on_progress(0, total, "")
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _ignore_interrupts() -> None:
    """Leave an interrupt to the caller, in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
