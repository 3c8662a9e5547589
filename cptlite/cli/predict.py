"""``cptlite predict``: what a finished run says of images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from csv import reader
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.choose import choose_backbone, choose_datasets, usable_caches
from cptlite.cli.console import Tick, note, print_table, progress
from cptlite.cli.options import (
    CACHE_DIR,
    HOW,
    WHAT,
    WHERE,
    CacheDirOption,
    DeviceOption,
    JsonOption,
    WorkersOption,
    complete_dataset,
    split_at_commas,
)
from cptlite.datasets.text_files import read_lines, shown
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.cache import FeatureCache
    from cptlite.reporting.predicted import Sink
    from cptlite.runs.image_features import ImageReading
    from cptlite.runs.predict import Choice, ImagePrediction
    from cptlite.runs.reuse import Reusable

__all__ = ["CheckpointOption", "ClassesOption", "class_names", "predict"]

STDIN, STDOUT = "-", Path("-")
SHOWN_BAD = 20
TICK = 64  # images; those of a batch come at once, and would look like a speed if each was shown

RunArgument = Annotated[
    Path,
    typer.Argument(help="Folder of a finished run, or a classifier that `cptlite extend` wrote.", show_default=False),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        help="Names to choose from, separated by commas, or @FILE with one a line; new ones get weights by their name.",
        rich_help_panel=WHAT,
        show_default=False,
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="The checkpoint's path, of a run whose backbone is one.",
        rich_help_panel=WHAT,
        show_default=False,
    ),
]


def predict(
    run: RunArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, patterns in quotes ('photos/**/*.jpg'), or - for paths on stdin, one a line.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Tasks to answer; repeatable. By default all.", rich_help_panel=WHAT),
    ] = None,
    classes: ClassesOption = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes that are named.", rich_help_panel=WHAT)] = 3,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Cached datasets instead of images; several with commas, or repeated.",
            autocompletion=complete_dataset,
            rich_help_panel=WHAT,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of cached datasets: train, val or test.", rich_help_panel=WHAT)
    ] = "test",
    cache_dir: CacheDirOption = CACHE_DIR,
    backbone: CheckpointOption = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a CSV, a row for each class named; - for stdout.", rich_help_panel=WHERE),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option("--parquet", help="Write the CSV's columns as Parquet; needs pyarrow.", rich_help_panel=WHERE),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="End with 0 although images cannot be read.", rich_help_panel=HOW)
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images per batch of the encoder.", rich_help_panel=HOW)
    ] = 32,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Of the backbone; by default as the run had it.", rich_help_panel=HOW),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Name the likeliest classes of images, by each task of a finished run.

    Images are read as they are needed, whatever their number; one that cannot be read is told and counted, and the
    others are answered all the same. A probability is the softmax over a task's classes. With --classes a task is asked
    for other classes, and, of a method that all tasks share, a new task for its own, without any training.
    """
    with loading():
        from cptlite.datasets.images import quiet_pillow
        from cptlite.environment import find_device
        from cptlite.runs.image_features import ImageReading
        from cptlite.runs.reuse import read_reusable

    words = images or []
    if bool(words) == bool(dataset):
        raise UsageError("wanted images or a cached dataset: give files, folders, patterns or -, or --dataset NAME")
    keep_freed_memory()
    found = read_reusable(run, device=find_device(device), backbone=backbone, precision=precision)
    for path in (csv, parquet):
        if path != STDOUT:
            found.check_outside(path)
    reading = ImageReading.of_run(found.stored, found.results, batch_size=batch_size, workers=workers)
    choices = found.choices(task or [], class_names(classes))
    with ExitStack() as stack:
        total: int | None
        if dataset:
            caches = _open_caches(stack, found, split_at_commas(dataset), cache_dir, backbone)
            total, said = _of_caches(caches, split, found, choices, top)
        else:
            total, said = _of_images(words, found, choices, top, reading)
        stack.enter_context(quiet_pillow())
        sinks = _open_sinks(stack, found, csv, parquet, json, several=len(choices) > 1)
        # What comes bit by bit on a terminal is not to be mixed with a bar.
        hidden = sys.stdout.isatty() and (json or csv == STDOUT)
        bar = progress("predicting", "images", hidden=hidden)
        count, bad = _hand_on(said, sinks, stack.enter_context(bar), total)
    for path in (csv, parquet):
        if path is not None and path != STDOUT:
            note(f"written: {shown(path)}")
    _check_read(count, bad, skip_bad)


def class_names(text: str | None) -> list[str]:
    """Names that the user gave: separated by commas, in quotes where they hold one; or the lines of a file."""
    if text is None:
        return []
    if text.startswith("@"):
        path = Path(text[1:])
        if not path.exists():
            raise DataError(f"wanted a file of class names at {shown(path)}, found none: check the path")
        return [line for _, line in read_lines(path)]
    (names,) = reader([text.replace("\n", " ")], skipinitialspace=True)
    return [name.strip() for name in names]


def _of_images(
    words: list[str], found: Reusable, choices: list[Choice], top: int, reading: ImageReading
) -> tuple[int | None, Iterator[ImagePrediction]]:
    """How many images there are, if that can be known, and what is said of each."""
    from cptlite.datasets.image_paths import count_images, find_images
    from cptlite.runs.predict import predict_images

    counts = [count_images(word) for word in words if word != STDIN]
    if others := sum(count.others for count in counts):
        note(f"left out: {others} {'file' if others == 1 else 'files'} of other kinds than images")
    listed = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)  # a path is any bytes
    paths = chain.from_iterable(filter(str.strip, listed) if word == STDIN else find_images(word) for word in words)
    backbone = found.towers.images(found.stored.backbone)
    total = None if STDIN in words else sum(count.images for count in counts)
    return total, predict_images(backbone, choices, paths, top=top, reading=reading)


def _open_caches(
    stack: ExitStack, found: Reusable, words: list[str], cache_dir: Path, backbone: str | None
) -> list[FeatureCache]:
    from cptlite.cache import CacheFolder
    from cptlite.datasets import load_catalog

    folder, facts = stack.enter_context(CacheFolder(cache_dir)), found.stored.backbone
    cached = usable_caches(folder)
    chosen = choose_backbone(cached, backbone or facts.name, cache_dir)
    return folder.open(replace(facts, name=chosen), choose_datasets(cached[chosen], words, load_catalog(), chosen))


def _of_caches(
    caches: list[FeatureCache], split: str, found: Reusable, choices: list[Choice], top: int
) -> tuple[int, Iterator[ImagePrediction]]:
    """How many rows there are, and what is said of each."""
    from cptlite.cache.layers import before_projection
    from cptlite.datasets.types import SPLITS
    from cptlite.runs.image_features import needs_patches, needs_pre_projection
    from cptlite.runs.predict import predict_cached

    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: give one of {', '.join(SPLITS)}")
    caches = before_projection(caches, needs_pre_projection(found.stored.classifier))
    settings: dict[str, Any] = {"patches": needs_patches(found.stored.classifier), "device": found.towers.device}
    said = (predict_cached(cache, split, choices, top=top, **settings) for cache in caches)
    return sum(cache.num_rows(split) for cache in caches), chain.from_iterable(said)


def _open_sinks(
    stack: ExitStack, found: Reusable, csv: Path | None, parquet: Path | None, json: bool, *, several: bool
) -> list[Sink]:
    """Open what takes the predictions; stdout as it is now, before a bar takes its place."""
    from cptlite.reporting.predicted import CsvSink, JsonSink, TableSink, csv_file, parquet_file

    if json and csv == STDOUT:
        raise UsageError("--json and --csv - both write to stdout: give one of them a file")
    facts = {name: found.results[name] for name in ("method", "suite", "shots", "seed") if name in found.results}
    sinks: list[Sink] = []
    if parquet is not None:
        sinks.append(stack.enter_context(parquet_file(parquet)))
    if csv is not None:
        sinks.append(CsvSink(sys.stdout) if csv == STDOUT else stack.enter_context(csv_file(csv)))
    if json:
        sinks.append(JsonSink(sys.stdout, {"run": str(found.path), **facts}))
    return sinks or [TableSink(print_table, f"What {found.path} says", several=several)]


def _hand_on(said: Iterator[ImagePrediction], sinks: list[Sink], tick: Tick, total: int | None) -> tuple[int, int]:
    """Hand each prediction on as it comes; say which images could not be read, and count these and all."""
    count = bad = 0
    tick(0, total)
    for count, prediction in enumerate(said, start=1):
        if prediction.reason:
            bad += 1
            if bad <= SHOWN_BAD:
                note(f"unreadable: {shown(prediction.image)}: {shown(prediction.reason)}")
        for sink in sinks:
            sink.add(prediction)
        if count % TICK == 0:
            tick(count, total)
    for sink in sinks:
        sink.finish()
    return count, bad


def _check_read(count: int, bad: int, skip_bad: bool) -> None:
    """End with exit code 1 where images could not be read, unless they may be left out."""
    if bad > SHOWN_BAD:
        note(f"unreadable: and {bad - SHOWN_BAD} more")
    if not count:
        raise DataError("wanted images, got none: the list on stdin is empty")
    if bad and not skip_bad:
        raise CptliteError(
            f"could not read {bad} of {count} images; what is said of the others is written all the same: mend them, "
            f"or give --skip-bad"
        )
