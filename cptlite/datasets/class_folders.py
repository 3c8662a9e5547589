"""Reading images sorted into one folder per class, with or without own train, val and test folders."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.partition import DEFAULT_SEED, partition, settle_splits
from cptlite.datasets.text_files import check_utf8
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "class_images",
    "read_class_folders",
    "read_folders",
    "read_split_folders",
    "subfolders",
]

IMAGE_SUFFIXES = frozenset(".bmp .gif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def subfolders(folder: Path, exclude: Collection[str] = ()) -> list[str]:
    """Return the names of the visible folders in ``folder``, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith((".", "__")) and entry.name not in exclude and entry.is_dir()
        )
    for name in names:
        check_utf8(name, folder)
    return names


def images_in(folder: Path, prefix: str) -> list[str]:
    """Return the images directly in ``folder`` as ``prefix`` + name, sorted; other files are left."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        )
    for name in names:
        check_utf8(name, folder)
    return [prefix + name for name in names]


def class_images(images: Path, within: str = "", exclude: Collection[str] = ()) -> dict[str, list[str]]:
    """List the images of each class folder.

    Parameters
    ----------
    images : Path
        Folder the paths are relative to.
    within : str
        The class folders' parent, relative to ``images``; empty for ``images`` itself.
    exclude : collection of str
        Folders that are no classes.

    Returns
    -------
    dict of str to list of str
        Paths by class, both sorted; a folder without images has an empty list.

    Raises
    ------
    DataError
        When there are no class folders.
    """
    parent = images / within
    prefix = f"{within}/" if within else ""
    names = subfolders(parent, exclude)
    if not names:
        lone = len(images_in(parent, ""))
        got = f"{lone} images directly in it" if lone else "an empty folder"
        raise DataError(
            f"{parent}: wanted one folder of images per class, got {got}; sort the images into "
            "folders named after their classes"
        )
    return {name: images_in(parent / name, f"{prefix}{name}/") for name in names}


def read_class_folders(place: Place) -> Draft:
    """Read class folders and split each class 50/20/30.

    Raises
    ------
    DataError
        No class folders, or one without images.
    """
    options = place.layout.options
    classes = class_images(place.images, exclude=options.get("exclude", ()))
    for name, paths in classes.items():
        if not paths:
            raise _empty_class(place.images / name)
    parts = partition(classes, options.get("seed", DEFAULT_SEED))
    return classes_to_draft(place.images, list(classes), parts)


def read_split_folders(place: Place) -> Draft:
    """Read class folders under the source's own train, validation and test folders.

    Without a validation folder a fifth of each class's training images is held out for it; with a
    validation folder and no test folder, that one is the test split.

    Raises
    ------
    DataError
        No training or no test images, or a class that is tested but not trained.
    """
    options = place.layout.options
    seed, exclude = options.get("seed", DEFAULT_SEED), options.get("exclude", ())
    parts = {
        SPLIT_WORDS[name.lower()]: class_images(place.images, name, exclude)
        for name in subfolders(place.images)
        if name.lower() in SPLIT_WORDS
    }
    if options.get("mixed"):
        return _mixed(place, parts, seed)
    for name, paths in parts.get("train", {}).items():
        if not paths:
            raise _empty_class(place.images / "train" / name)
    settled = settle_splits(parts, place.images, seed)
    return classes_to_draft(place.images, _names(settled), settled)


def read_folders(place: Place) -> Draft:
    """Read a user's folder: own train, val and test folders if it has no others, else classes."""
    names = [name.lower() for name in subfolders(place.images)]
    if len(names) > 1 and all(name in SPLIT_WORDS for name in names):
        return read_split_folders(place)
    return read_class_folders(place)


def _mixed(place: Place, parts: Mapping[str, dict[str, list[str]]], seed: int) -> Draft:
    """Split each of the source's folders and join the parts: the original's way."""
    joined: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for classes in parts.values():
        for split, by_class in partition(classes, seed).items():
            for name, paths in by_class.items():
                joined[split].setdefault(name, []).extend(paths)
    return classes_to_draft(place.images, _names(parts), joined)


def _names(parts: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """Every class of any split, sorted."""
    return sorted({name for by_class in parts.values() for name in by_class})


def _empty_class(folder: Path) -> DataError:
    """Error for a class folder without images."""
    hint = f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
    if subfolders(folder):
        hint = "it has folders of its own: give the folder whose subfolders are the classes"
    return DataError(f"{folder}: wanted images of the class {folder.name!r}, found none; {hint}")
