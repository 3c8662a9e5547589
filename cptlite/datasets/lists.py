"""Reading FGVC-Aircraft as its archive describes it: a list of names and a list of images for each split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.tables import near_matches
from cptlite.datasets.text_files import read_lines, shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = ["read_fgvc"]

ByClass = dict[str, list[str]]


def read_fgvc(place: Place) -> Draft:
    """Read ``variants.txt`` and ``images_variant_{train,val,test}.txt`` (lines ``ID name``).

    Raises
    ------
    DataError
        A line without a name, or a name that ``variants.txt`` does not have.
    """
    variants = place.folder / "variants.txt"
    names = [line for _, line in read_lines(variants)]
    parts = {split: _fgvc_images(place.folder / f"images_variant_{split}.txt", names) for split in SPLITS}
    return replace(classes_to_draft(variants, names, parts), listed=True)


def _fgvc_images(path: Path, names: list[str]) -> ByClass:
    """Image paths of one list by variant."""
    images: ByClass = {name: [] for name in names}
    for number, line in read_lines(path):
        identity, _, name = line.partition(" ")
        if name.strip() not in images:
            raise DataError(
                f"{shown(path)}, line {number}: wanted 'ID name' with a name of variants.txt, got {line!r}"
                f"{near_matches(name, names)}; fetch both files of the same release"
            )
        images[name.strip()].append(f"{identity}.jpg")
    return images
