"""Reading what torchvision's downloaders leave on disk and other readers do not cover.

Source: the folders and list files torchvision 0.29 makes for DTD, Flowers102, Food101, OxfordIIITPet
and SUN397.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cptlite.datasets.class_folders import LeftOut, images_in
from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.matlab import read_whole_numbers
from cptlite.datasets.partition import DEFAULT_SEED, partition, settle_notes, settle_splits
from cptlite.datasets.text_files import read_json, read_lines, shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = [
    "read_dtd_lists",
    "read_flower_lists",
    "read_food_lists",
    "read_pet_lists",
    "read_scene_folders",
]

ByClass = dict[str, list[str]]


def read_dtd_lists(place: Place) -> Draft:
    """Read ``labels/{train,val,test}1.txt``, lines ``class/image.jpg``."""
    labels = place.folder / "labels"
    parts = {
        split: _by_class((line.partition("/")[0], line) for _, line in read_lines(labels / f"{split}1.txt"))
        for split in SPLITS
    }
    return replace(classes_to_draft(labels, _names(parts), parts), listed=True)


def read_flower_lists(place: Place) -> Draft:
    """Read ``setid.mat`` and ``imagelabels.mat``; image and label numbers start at 1."""
    names = place.layout.options.get("labels", ())
    numbers = read_whole_numbers(place.folder / "imagelabels.mat", "labels")
    split_file = place.folder / "setid.mat"
    by_label: dict[str, dict[int, list[str]]] = {}
    for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True):
        by_label[split] = {}
        for image in read_whole_numbers(split_file, key):
            if not 1 <= image <= len(numbers) or numbers[image - 1] < 1:
                raise DataError(
                    f"{shown(split_file)}: wanted images 1 to {len(numbers)} with labels from 1, got {image} in "
                    f"{key!r}; fetch it and imagelabels.mat again"
                )
            by_label[split].setdefault(numbers[image - 1], []).append(f"image_{image:05d}.jpg")
    present = sorted({number for part in by_label.values() for number in part})
    named = {n: names[n - 1] if n <= len(names) else f"class {n}" for n in present}
    parts = {split: {named[number]: paths for number, paths in part.items()} for split, part in by_label.items()}
    return replace(classes_to_draft(split_file, list(named.values()), parts), listed=True)


def read_food_lists(place: Place) -> Draft:
    """Read ``meta/{train,test}.json``, ``{class: ["class/image", ...]}`` without suffixes."""
    parts: dict[str, ByClass] = {}
    for split in ("train", "test"):
        path = place.folder / "meta" / f"{split}.json"
        content = read_json(path)
        if not isinstance(content, dict) or not all(map(_is_texts, content.values())):
            raise DataError(f"{shown(path)}: wanted image names by class, got none; fetch it again")
        parts[split] = {name: [f"{image}.jpg" for image in of] for name, of in content.items()}
    return _settled(place, place.folder / "meta", parts)


def read_pet_lists(place: Place) -> Draft:
    """Read ``annotations/{trainval,test}.txt``, lines ``Breed_number label species breed``."""
    annotations = place.folder / "annotations"
    parts = {}
    for split, file in (("train", "trainval.txt"), ("test", "test.txt")):
        images = [line.split()[0] for _, line in read_lines(annotations / file)]
        parts[split] = _by_class((image.rpartition("_")[0].lower(), f"{image}.jpg") for image in images)
    return _settled(place, annotations, parts)


def read_scene_folders(place: Place) -> Draft:
    """Read ``<letter>/<class>/`` or ``<letter>/<class>/<kind>/``; the latter is "kind class"."""
    classes: ByClass = {}
    left_out = LeftOut()
    for folder, folders, _ in os.walk(place.images):
        folders.sort()
        parts = Path(folder).relative_to(place.images).parts
        images = images_in(Path(folder), "/".join(parts) + "/", left_out)
        if len(parts) > 1 and images:
            classes[" ".join(reversed(parts[1:]))] = images
    seed = place.layout.options.get("seed", DEFAULT_SEED)
    left_out.folders.clear()  # walked too
    draft = classes_to_draft(place.images, sorted(classes), partition(classes, seed))
    return replace(draft, warnings=left_out.warnings())


def _settled(place: Place, source: Path, parts: dict[str, ByClass]) -> Draft:
    """Hold validation images out of lists that have none."""
    settled = settle_splits(parts, source, place.layout.options.get("seed", DEFAULT_SEED))
    draft = classes_to_draft(source, _names(settled), settled)
    return replace(draft, listed=True, notes=settle_notes(parts))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _by_class(pairs: Iterable[tuple[str, str]]) -> ByClass:
    """Group (class, path) pairs."""
    classes: ByClass = {}
    for name, path in pairs:
        classes.setdefault(name, []).append(path)
    return classes


def _names(parts: dict[str, ByClass]) -> list[str]:
    """Every class of any split, sorted."""
    return sorted({name for classes in parts.values() for name in classes})
