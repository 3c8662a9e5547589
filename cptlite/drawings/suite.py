"""The demo's six tasks and their image folders: five drawn from a seed, one of real handwritten digits.

Sources: this package's own drawings; the digits are those of E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits" (UCI, 1998), which scikit-learn ships.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cptlite.drawings.render import SKETCH, render
from cptlite.drawings.scenes import (
    ARRANGEMENTS,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PATTERNS,
    SHAPES,
    SIDE,
    Choices,
    sample_scene,
)
from cptlite.files import naming_full_disk

__all__ = ["ROWS_PER_CLASS", "TASKS", "DrawnTask", "draw_image", "draw_suite", "suite_images"]

VERSION = 2  # raise it when the pixels change, so that old trees are drawn again
ROWS_PER_CLASS = {"train": 16, "val": 4, "test": 25}


@dataclass(frozen=True, kw_only=True)
class DrawnTask:
    """One task of the demo suite.

    Attributes
    ----------
    folder : str
        Its folder under ``demo``.
    name : str
        The words given to SoftCPT's meta network.
    class_names : tuple of str
        Names in label order, also the names of the class folders.
    template : str
        Zero-shot prompt with one ``{}`` for the class name.
    metric : str
        Metric its score is taken from.
    """

    folder: str
    name: str
    class_names: tuple[str, ...]
    template: str
    metric: str = "acc1"


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

TASKS: dict[str, DrawnTask] = {
    task.folder: task
    for task in (
        DrawnTask(folder="shapes", name="shape", class_names=SHAPES, template="a drawing of a {}."),
        DrawnTask(
            folder="colours",
            name="colour",
            class_names=COLOURS,
            template="a drawing of a {} object.",
        ),
        DrawnTask(
            folder="patterns",
            name="pattern",
            class_names=PATTERNS,
            template="a drawing with a {} pattern.",
        ),
        DrawnTask(
            folder="counts",
            name="number of objects",
            class_names=COUNTS,
            template="a drawing of {} objects.",
        ),
        DrawnTask(
            folder="arrangements",
            name="arrangement of objects",
            class_names=tuple(ARRANGEMENTS),
            template="a drawing of objects {}.",
        ),
        DrawnTask(
            folder="digits",
            name="handwritten digit",
            class_names=DIGITS,
            template="a drawing of the digit {}.",
        ),
    )
}


def _choices(folder: str, label: int) -> Choices:
    """Let everything vary but the class."""
    word, free = TASKS[folder].class_names[label], Choices()
    if folder == "shapes":
        return replace(free, shapes=(word,), counts=(1,), radii=(12.0, 26.0))
    if folder == "colours":
        return replace(free, colours=(word,), counts=(1, 1, 2, 3), backgrounds=BACKGROUNDS * 2 + COLOURS)
    if folder == "patterns":
        return replace(free, patterns=(word,), counts=(1,), radii=(18.0, 27.0))
    if folder == "counts":
        return replace(free, counts=(label + 1,))
    return replace(free, arrangements=(word,), counts=ARRANGEMENTS[word])


def draw_image(folder: str, split: str, label: int, row: int, *, seed: int = 0) -> np.ndarray:
    """Draw one image of a drawn task (not of the digits).

    Parameters
    ----------
    folder : str
        Key of `TASKS`.
    split : str
        ``train``, ``val`` or ``test``.
    label, row : int
        Class within the task and image within the class.
    seed : int
        Seed of the suite.

    Returns
    -------
    ndarray of shape (64, 64, 3), uint8
        RGB; depends on the arguments alone.
    """
    place = (list(TASKS).index(folder), list(ROWS_PER_CLASS).index(split), label, row)
    rng = np.random.default_rng((seed, *place))
    return render(sample_scene(rng, _choices(folder, label)), SKETCH, rng)


def _digit_images(seed: int, rows_per_class: Mapping[str, int]) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """As `suite_images`; no sample is used twice."""
    from sklearn.datasets import load_digits

    samples = load_digits()
    rng = np.random.default_rng((seed, list(TASKS).index("digits")))
    for label, name in enumerate(DIGITS):
        own = rng.permutation(np.flatnonzero(samples.target == label))
        start = 0
        for split, count in rows_per_class.items():
            for row, sample in enumerate(own[start : start + count]):
                grey = np.rint(samples.images[sample] * (255 / 16)).astype(np.uint8)  # (8, 8)
                image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                yield split, name, row, np.asarray(image.convert("RGB"))
            start += count


def suite_images(
    folder: str, *, seed: int = 0, rows_per_class: Mapping[str, int] = ROWS_PER_CLASS
) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Draw all images of one task.

    Parameters
    ----------
    folder : str
        Key of `TASKS`.
    seed : int
        Seed of the suite.
    rows_per_class : mapping of str to int
        Images of a class by split; of the digits there are 174.

    Yields
    ------
    tuple
        Split, class name, row within the class, and the image of shape (64, 64, 3), uint8.
    """
    if folder == "digits":
        yield from _digit_images(seed, rows_per_class)
        return
    for label, name in enumerate(TASKS[folder].class_names):
        for split, count in rows_per_class.items():
            for row in range(count):
                yield split, name, row, draw_image(folder, split, label, row, seed=seed)


def draw_suite(
    root: Path,
    *,
    seed: int = 0,
    rows_per_class: Mapping[str, int] = ROWS_PER_CLASS,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the demo suite as ``<root>/demo/<task>/<split>/<class name>/NNN.png``.

    Parameters
    ----------
    root : Path
        The data root; made where it is missing.
    seed : int
        Seed of the drawings and of which digits are taken.
    rows_per_class : mapping of str to int
        As in `suite_images`.
    on_progress : callable, optional
        Called with images written and images in all.

    Raises
    ------
    CptliteError
        The disk is full.

    Notes
    -----
    A file ``suite.json`` is written last. While it tells of the same seed, rows and version, and no image
    lacks, nothing is drawn again; otherwise everything is.
    """
    marker = root / "demo" / "suite.json"
    content = json.dumps({"version": VERSION, "seed": seed, **_unlike_demo(rows_per_class)}).encode()
    if marker.is_file() and marker.read_bytes() == content and _is_drawn(root, rows_per_class):
        return
    marker.unlink(missing_ok=True)
    total = sum(len(task.class_names) for task in TASKS.values()) * sum(rows_per_class.values())
    done = 0
    for folder in TASKS:
        for split, name, row, pixels in suite_images(folder, seed=seed, rows_per_class=rows_per_class):
            path = _image_path(root, folder, split, name, row)
            picture = BytesIO()  # Pillow does not see when a disk takes but half of what it writes
            Image.fromarray(pixels).save(picture, "PNG", compress_level=1)
            with naming_full_disk(root):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture.getvalue())
            done += 1
            if on_progress is not None:
                on_progress(done, total)
    with naming_full_disk(root):
        marker.write_bytes(content)


def _image_path(root: Path, folder: str, split: str, name: str, row: int) -> Path:
    return root / "demo" / folder / split / name / f"{row:03d}.png"


def _is_drawn(root: Path, rows_per_class: Mapping[str, int]) -> bool:
    """Whether every image is there."""
    return all(
        _image_path(root, folder, split, name, row).is_file()
        for folder, task in TASKS.items()
        for name in task.class_names
        for split, count in rows_per_class.items()
        for row in range(count)
    )


def _unlike_demo(rows_per_class: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Say how many rows there are where it is not as many as in the demo."""
    return {} if dict(rows_per_class) == ROWS_PER_CLASS else {"rows_per_class": dict(rows_per_class)}
