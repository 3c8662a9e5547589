"""Image files that a user's words mean: a file, a folder with all that lies in it, or a pattern.

Found one after the other: no list of them is ever held, but for the names in one folder.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cptlite.datasets.class_folders import IMAGE_SUFFIXES
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError

__all__ = ["FoundImages", "count_images", "find_images"]


class FoundImages(NamedTuple):
    """How many files are images by their suffix, and how many others lie beside them."""

    images: int
    others: int


def find_images(word: str) -> Iterator[str]:
    """Find the images that a word means, in the order of their names, folder by folder.

    Parameters
    ----------
    word : str
        A file, which is given back whatever its suffix; a folder, whose images are those with a suffix of
        `IMAGE_SUFFIXES`, in its own folders too, but for hidden files and links to folders; or a pattern such as
        ``photos/**/*.jpg``, of whose files and folders the same is taken.

    Yields
    ------
    str
        Each begins as the word does.

    Raises
    ------
    DataError
        There is nothing at the word, or a folder cannot be read.
    """
    return (path for path, is_image in _files_of(word) if is_image)


def count_images(word: str) -> FoundImages:
    """Count what `find_images` would find.

    Raises
    ------
    DataError
        As of `find_images`, or there are no images.
    """
    images = others = 0
    for _, is_image in _files_of(word):
        images += is_image
        others += not is_image
    if not images:
        got = f"none among {others} files" if others else "none"
        raise DataError(
            f"wanted images in {shown(word)}, found {got}: give a folder with files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, or the files themselves"
        )
    return FoundImages(images, others)


def _files_of(word: str) -> Iterator[tuple[str, bool]]:
    """Each file that a word means, and whether it is to be read as an image."""
    if os.path.isdir(word):
        yield from _files_in(word)
    elif os.path.lexists(word):
        yield word, True
    elif glob.has_magic(word):
        for path in sorted(glob.iglob(word, recursive=True)):
            yield from _files_in(path) if os.path.isdir(path) and "**" not in word else _files_at(path)
    else:
        raise DataError(f"wanted an image, a folder or a pattern at {shown(word)}, found nothing there: check the path")


def _files_in(folder: str) -> Iterator[tuple[str, bool]]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"wanted the images in {shown(error.filename)}, could not read that folder ({error.strerror}): "
            f"check its permissions"
        ) from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield from _files_at(os.path.join(place, name))


def _files_at(path: str) -> Iterator[tuple[str, bool]]:
    if not os.path.isdir(path):
        yield path, Path(path).suffix.lower() in IMAGE_SUFFIXES
