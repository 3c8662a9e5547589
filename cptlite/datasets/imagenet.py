"""Reading ImageNet and its test-only variants: folders named by WordNet id, names in a text file.

``classnames.txt`` has lines ``wnid name``. Labels number the ids that have a folder, in sorted order,
so the variants of 200 classes may keep the list of 1000.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cptlite.datasets.class_folders import class_images
from cptlite.datasets.drafts import Draft, Place, TaskDraft, classes_to_draft
from cptlite.datasets.text_files import read_lines
from cptlite.errors import DataError

__all__ = ["read_imagenet", "read_imagenet_test"]

ByClass = dict[str, list[str]]


def read_imagenet(place: Place) -> Draft:
    """Read ``train/<wnid>`` and ``val/<wnid>``; the validation images are the test split."""
    parts = {"train": class_images(place.images, "train"), "test": class_images(place.images, "val")}
    return _draft(place, parts)


def read_imagenet_test(place: Place) -> Draft:
    """Read the folders of a variant, all of it test; ``numbered`` folders are named by label."""
    classes = class_images(place.images)
    if place.layout.options.get("numbered"):
        classes = _by_wnid(place, classes)
    return _draft(place, {"test": classes})


def _draft(place: Place, parts: dict[str, ByClass]) -> Draft:
    """Name the folders; ImageNet's own list calls some classes alike."""
    path = place.folder / "classnames.txt"
    names = _class_names(path)
    wnids = sorted({wnid for classes in parts.values() for wnid in classes})
    for wnid in wnids:
        if wnid not in names:
            raise DataError(
                f"{place.images}: wanted folders named by the ids of {path.name}, got {wnid!r}; "
                "remove the folder or fetch the file again"
            )
    task = TaskDraft(class_names=tuple(names[wnid] for wnid in wnids))
    return replace(classes_to_draft(path, wnids, parts), tasks=(task,), unique_names=False)


def _class_names(path: Path) -> dict[str, str]:
    """Class names by WordNet id, in file order."""
    names = {}
    for number, line in read_lines(path):
        wnid, _, name = line.partition(" ")
        if not name.strip():
            raise DataError(f"{path}, line {number}: wanted 'wnid name', got {line!r}; correct it")
        names[wnid] = name.strip()
    return names


def _by_wnid(place: Place, classes: ByClass) -> ByClass:
    """Rename folders ``0``, ``1``, ... to the ids at those places of the list."""
    wnids = list(_class_names(place.folder / "classnames.txt"))
    for name in classes:
        if not name.isdecimal() or int(name) >= len(wnids):
            raise DataError(f"{place.images}: wanted folders 0 to {len(wnids) - 1}, got {name!r}; remove it")
    return {wnids[int(name)]: paths for name, paths in classes.items()}
