"""The caching pass over JPEG files against its bound: the encoder fed from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.cache.encode import encode_dataset
from cptlite.datasets.images import normalise, open_rgb, plain_pixels
from cptlite.datasets.types import Dataset
from cptlite.environment import usable_cores
from cptlite.timing.clock import Patience, Samples, seconds_of
from cptlite.timing.pictures import draw_photos

__all__ = ["bench_cache"]

BATCH_SIZE = 64
ENCODER = "encoder"


def bench_cache(
    backbone: Backbone, images: int, patience: Patience, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Time the pass by its number of reading threads.

    Parameters
    ----------
    backbone : Backbone
    images : int
        JPEG files to draw and encode.
    patience : Patience
        For each number of threads.
    tell : callable
        Told what is being done.

    Yields
    ------
    dict
        ``way`` ("encoder" or "pass"), ``workers`` (None for the encoder), ``images``, ``images_per_s``, ``of_bound``
        (the share of what the encoder alone does) and ``repeats``.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tell(f"drawing {images} JPEGs")
        dataset = draw_photos(folder, images)
        batches = _in_memory(dataset, backbone)
        runs: dict[int | None, Callable[[], object]] = {None: lambda: list(map(backbone.encode_images, batches))}
        for count in _worker_counts():
            runs[count] = lambda count=count: _pass(dataset, backbone, folder, count)  # type: ignore[misc]
        samples = _time_in_turn(runs, backbone.device, patience, tell)
    for workers, sample in samples.items():
        yield {
            "way": ENCODER if workers is None else "pass",
            "workers": workers,
            "images": images,
            "images_per_s": images / sample.median,
            "of_bound": samples[None].median / sample.median,
            "repeats": len(sample.seconds),
        }


def _worker_counts() -> Sequence[int]:
    return sorted({0, 1, 2, usable_cores()})


def _in_memory(dataset: Dataset, backbone: Backbone) -> list[Tensor]:
    """Batches as the pass makes them, ready for the encoder: each a Tensor of shape (B, 3, R, R)."""
    paths = dataset.splits["train"].paths
    spec = backbone.preprocess_spec
    pixels = np.stack([plain_pixels(open_rgb(dataset.image_root / path), spec) for path in paths])
    return [
        normalise(torch.from_numpy(part).to(backbone.device), backbone.preprocess_spec)
        for part in np.split(pixels, range(BATCH_SIZE, len(pixels), BATCH_SIZE))
    ]


def _pass(dataset: Dataset, backbone: Backbone, folder: Path, workers: int) -> None:
    with TemporaryDirectory(dir=folder) as cache_dir:
        encode_dataset(dataset, backbone, Path(cache_dir), batch_size=BATCH_SIZE, workers=workers)


def _time_in_turn(
    runs: dict[int | None, Callable[[], object]],
    device: torch.device,
    patience: Patience,
    tell: Callable[[str], None],
) -> dict[int | None, Samples]:
    """Repeats of every run, one after the other, so that a machine that slows down does so for all of them."""
    tell("warming up")
    runs[None]()
    samples: dict[int | None, Samples] = {workers: Samples() for workers in runs}
    while samples[None].wants_more(patience):
        for workers, run in runs.items():
            tell(f"{ENCODER if workers is None else f'{workers} workers'}: repeat {len(samples[workers].seconds) + 1}")
            samples[workers].seconds.append(seconds_of(run, device))
    return samples
