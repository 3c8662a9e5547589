"""The one pass over the images of a dataset: a cache file, or an account of what is missing for one.

Axes: N rows of a split, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cptlite.backbones import Backbone
from cptlite.backbones.images import count_workers
from cptlite.cache.encode_pass import EncodingPass, OnProgress
from cptlite.cache.format import DTYPES, Fingerprint, cache_path
from cptlite.cache.parts import PartStore
from cptlite.cache.read import BadImage, open_cache
from cptlite.cache.shards import Shard, at_work, refuse_shards, taking_shard
from cptlite.cache.write import has_leftovers, origin, replace_words, write_cache, writing
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import Dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.files import naming_full_disk

__all__ = ["PART_ROWS", "EncodeReport", "encode_dataset"]

PART_ROWS = 128
SHARD_WAIT = 60.0  # seconds that a shard waits for others, which hold the file as they begin and as they end


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What a pass did.

    Attributes
    ----------
    path : Path
        The cache file; there only if `complete`.
    complete : bool
        Whether the file is there: not if images were unreadable and ``skip_bad`` was not given, or shards are missing.
    complete_already : bool
        Whether it was there before, so that nothing was read.
    rows : int
        Rows of the dataset, unreadable images included.
    missing_rows : int
        Rows that other shards have yet to finish.
    resumed_rows, encoded_rows : int
        Rows that earlier passes had finished, and rows encoded by this one.
    bad : tuple of BadImage
        Unreadable images; of a file that was there already those it leaves out.
    words_replaced : bool
        Whether task names, templates or metrics of a file that was there already were brought up to date.
    seconds : float
    """

    path: Path
    complete: bool
    complete_already: bool = False
    rows: int
    missing_rows: int = 0
    resumed_rows: int = 0
    encoded_rows: int = 0
    bad: tuple[BadImage, ...] = ()
    words_replaced: bool = False
    seconds: float = 0.0


def encode_dataset(
    dataset: Dataset,
    backbone: Backbone,
    cache_dir: Path,
    *,
    views: ViewConfig | None = None,
    dtype: str = "float16",
    patches: bool = False,
    pre_projection: bool = False,
    batch_size: int = 64,
    part_rows: int = PART_ROWS,
    workers: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
    lock: bool = True,
    shard: Shard | None = None,
    on_progress: OnProgress | None = None,
) -> EncodeReport:
    """Encode all images of a dataset into its cache file, going on where an interrupted pass stopped.

    Parameters
    ----------
    dataset : Dataset
    backbone : Backbone
    cache_dir : Path
        Made if it is not there.
    views : ViewConfig, optional
        Views of the training images, one by default; validation and test images have the plain view only.
    dtype : str
        Stored number type, "float16" or "float32".
    patches : bool
        Whether to store the plain view's M patch features beside the pooled ones, which are the same to the bit.
    pre_projection : bool
        Whether to store every view's features before the projection too.
    batch_size : int
        Images per batch of the encoder, all views counted. The last bits of the features may depend on it.
    part_rows : int
        Rows between two points from which a killed pass goes on. A pass with another number does not share parts.
        Batches of no more rows end with their part, larger ones span parts.
    workers : int, optional
        Threads that read images; by default as many as there are cores, at most 16. 0 reads them in the calling
        thread. The features do not depend on it.
    skip_bad : bool
        Leave unreadable images out instead of writing no file.
    force : bool
        Encode everything anew and replace what is there.
    lock : bool
        Keep other processes from writing the file; False only where the file system has no locks.
    shard : Shard, optional
        Encode this one alone. The last of them to end joins all to the file that an undivided pass writes.
    on_progress : callable, optional
        Called with rows done, all rows and the split at work: first with what earlier passes had done, then after
        every batch.

    Returns
    -------
    EncodeReport

    Raises
    ------
    UsageError
        A number is out of range.
    DataError
        The file that is there holds something else; no image can be read; the folder cannot be written to.
    CptliteError
        Another process is writing the file; the disk is full; the GPU's memory is; features are not finite.
    """
    start = time.monotonic()
    views = views or ViewConfig()
    _check_numbers(dtype, batch_size, part_rows)
    if shard is not None and not lock:
        raise UsageError("shards tell by locks which of them ends last: encode undivided, or without --no-lock")
    workers = count_workers(workers)
    fingerprint = Fingerprint.of_pass(dataset, backbone, views, dtype, patches=patches, pre_projection=pre_projection)
    path = cache_path(cache_dir, backbone.slug, dataset.name)
    store = PartStore.of_pass(path, fingerprint, part_rows, anew=force)
    work = EncodingPass(
        dataset=dataset,
        backbone=backbone,
        fingerprint=fingerprint,
        store=store,
        views=views,
        batch_size=batch_size,
        workers=workers,
        shard=shard,
        on_progress=on_progress,
    )
    report = None if force else _existing(work)
    if report is None and shard is not None:
        report = _encode_shard(work, shard, skip_bad=skip_bad, force=force)
    elif report is None or report.words_replaced:
        with writing(path, lock=lock):
            # Another process may have made the file since.
            report = None if force else _existing(work)
            if report is None:
                if lock:
                    refuse_shards(path)
                report = _encode_missing(work, skip_bad)
            elif report.words_replaced:
                replace_words(path, dataset.tasks)
    elif store.folder.exists() or has_leftovers(path):  # killed after the renaming of the file
        with suppress(CptliteError), writing(path, lock=lock):
            store.remove()
    return replace(report, seconds=time.monotonic() - start)


def _check_numbers(dtype: str, batch_size: int, part_rows: int) -> None:
    if dtype not in DTYPES:
        raise UsageError(f"features are stored as {' or '.join(DTYPES)}, got dtype {dtype!r}")
    for name, value in (("batch-size", batch_size), ("part-rows", part_rows)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")


def _existing(work: EncodingPass) -> EncodeReport | None:
    """Report on a file that is there; its ``words_replaced`` says that they have to be."""
    path = work.store.target
    if not path.exists():
        return None
    with open_cache(path, work.fingerprint) as cache:
        return EncodeReport(
            path=path,
            complete=True,
            complete_already=True,
            rows=_num_rows(work.dataset),
            bad=cache.bad,
            words_replaced=cache.tasks != work.dataset.tasks,
        )


def _encode_shard(work: EncodingPass, shard: Shard, *, skip_bad: bool, force: bool) -> EncodeReport:
    """Encode what is missing of a shard; then, unless others are missing, join them all to the file."""
    store, rows = work.store, _num_rows(work.dataset)
    if not any(own.any() for own in work.own_rows.values()):  # more shards than parts
        missing = store.missing_rows(work.num_rows)
        return EncodeReport(path=store.target, complete=False, rows=rows, missing_rows=missing)
    with ExitStack() as stack:
        with writing(store.target, wait=SHARD_WAIT):
            report = None if force else _existing(work)
            if report is not None:
                return report
            _check_images(work.dataset)
            _check_space(work)
            store.prepare(shared=True)
            stack.enter_context(taking_shard(store, shard, work.batch_size))
        with naming_full_disk(store.folder):
            work.run()
    with writing(store.target, wait=SHARD_WAIT):
        done = EncodeReport(
            path=store.target,
            complete=False,
            rows=rows,
            missing_rows=store.missing_rows(work.num_rows),
            resumed_rows=work.resumed_rows,
            encoded_rows=work.encoded_rows,
            bad=tuple(work.bad),
        )
        if not store.folder.exists() and (report := _existing(work)):  # another shard saw this one finished
            return replace(done, complete=True, missing_rows=0, bad=report.bad)
        if done.missing_rows or at_work(store.target):
            return done
        joined = _encode_missing(replace(work, shard=None, bad=[], resumed_rows=0, encoded_rows=0), skip_bad)
        resumed = joined.resumed_rows + joined.encoded_rows - work.encoded_rows
        return replace(joined, resumed_rows=resumed, encoded_rows=work.encoded_rows)


def _encode_missing(work: EncodingPass, skip_bad: bool) -> EncodeReport:
    """Encode what is missing; then, unless images were unreadable, write the file and delete the parts."""
    _check_images(work.dataset)
    _check_space(work)
    store, rows = work.store, _num_rows(work.dataset)
    store.prepare()
    work.run()
    if len(work.bad) == rows:
        store.remove()
        first = work.bad[0]
        raise DataError(
            f"wanted {rows} images of {shown(work.dataset.name)} under {shown(work.dataset.image_root)}, could read "
            f"none (the first, {shown(first.path)}: {shown(first.reason)}): check --root"
        )
    complete = skip_bad or not work.bad
    if complete:
        write_cache(
            store.target,
            fingerprint=work.fingerprint,
            tasks=work.dataset.tasks,
            splits=work.contents(),
            facts=origin(torch.device(work.backbone.device)),
            bad=work.bad,
        )
        store.remove()
    return EncodeReport(
        path=store.target,
        complete=complete,
        rows=rows,
        resumed_rows=work.resumed_rows,
        encoded_rows=work.encoded_rows,
        bad=tuple(work.bad),
    )


def _num_rows(dataset: Dataset) -> int:
    return sum(len(rows) for rows in dataset.splits.values())


def _check_images(dataset: Dataset) -> None:
    if not _num_rows(dataset):
        raise DataError(f"the dataset {shown(dataset.name)} has no images: check its split files and --root")
    if not dataset.image_root.is_dir():
        raise DataError(
            f"wanted the images of {shown(dataset.name)} in the folder {shown(dataset.image_root)}, which is not "
            f"there: check --root"
        )


def _check_space(work: EncodingPass) -> None:
    """Refuse before hours of encoding what the disk cannot hold: the parts and the file made of them."""
    fingerprint, splits = work.fingerprint, work.dataset.splits
    numbers = sum(len(rows) * fingerprint.row_numbers(name, work.backbone.embed_dim) for name, rows in splits.items())
    wanted = 2 * numbers * np.dtype(fingerprint.dtype).itemsize
    free = shutil.disk_usage(work.store.target.parent).free
    if free < wanted:
        raise CptliteError(
            f"encoding {shown(work.dataset.name)} takes up to {wanted / 2**20:.0f} MiB in "
            f"{shown(work.store.target.parent)}, {free / 2**20:.0f} MiB are free: free some, or give another "
            f"--cache-dir"
        )
