"""JPEG files that cost as much to read as photographs: smooth colours under fine noise."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cptlite.datasets.types import Dataset, Rows, Task

__all__ = ["draw_photos"]

SIZE = (320, 240)  # width and height in pixels, as in many of the small datasets
PATCHES = (16, 12)  # patches of one colour before smoothing
NOISE = 8.0  # standard deviation, of 255
QUALITY = 90


def draw_photos(folder: Path, count: int) -> Dataset:
    """Write ``count`` JPEGs into ``folder``; the dataset has them as training images of one class."""
    paths = tuple(f"{index:05d}.jpg" for index in range(count))
    for index, path in enumerate(paths):
        picture = BytesIO()  # Pillow does not see when a disk takes but half of what it writes
        _photo(np.random.default_rng(index)).save(picture, "JPEG", quality=QUALITY)
        (folder / path).write_bytes(picture.getvalue())
    zeros, none = np.zeros(count, np.int32), np.zeros(0, np.int32)
    empty = Rows(paths=(), labels=none, tasks=none)
    task = Task(id="photos", name="photo", class_names=("photo",), template="a photo of {}.", metric="acc1")
    return Dataset(
        name="photos",
        image_root=folder,
        tasks=(task,),
        splits={"train": Rows(paths=paths, labels=zeros, tasks=zeros), "val": empty, "test": empty},
    )


def _photo(generator: np.random.Generator) -> Image.Image:
    colours = generator.integers(0, 256, (PATCHES[1], PATCHES[0], 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(np.clip(smooth + generator.normal(0, NOISE, smooth.shape), 0, 255).astype(np.uint8))
