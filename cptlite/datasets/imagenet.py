"""Reading ImageNet and its test-only variants: folders named by WordNet id, names in a text file.

``classnames.txt`` has lines ``wnid name``, or one of the other forms in which such lists are passed on: with a number
before or behind the id (ILSVRC's ``map_clsloc.txt``), the id last, fields separated by spaces, tabs, commas or
semicolons. Labels number the ids that have a folder, in sorted order, so the variants of 200 classes may keep the list
of 1000.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from cptlite.datasets.class_folders import LeftOut, class_images
from cptlite.datasets.drafts import Draft, Place, TaskDraft, classes_to_draft
from cptlite.datasets.text_files import read_lines, shown
from cptlite.errors import DataError

__all__ = ["read_imagenet", "read_imagenet_test"]

ByClass = dict[str, list[str]]

GAP = r"[\s,;]+"
LONGEST_LINE = 1000  # longer ones are no names, and would take the patterns forever
FORMS = tuple(
    re.compile(form)
    for form in (
        rf"(?P<number>\d{{1,9}}){GAP}(?P<id>n\d{{8}}){GAP}(?P<name>.+)",
        rf"(?P<id>[^\s,;]+){GAP}(?P<number>\d{{1,9}}){GAP}(?P<name>.+)",
        rf"(?P<id>n\d{{8}}){GAP}(?P<name>.+?){GAP}(?P<number>\d{{1,9}})",
        rf"(?P<name>.+?){GAP}(?P<id>n\d{{8}})",
        rf"(?P<id>[^\s,;]+){GAP}(?P<name>.+)",
    )
)
"""Forms of a line; a form with a number is meant only where every line has it and no number comes twice."""


def read_imagenet(place: Place) -> Draft:
    """Read ``train/<wnid>`` and ``val/<wnid>``; the validation images are the test split."""
    left_out = LeftOut()
    folders = {"train": "train", "test": "val"}
    parts = {split: class_images(place.images, folder, (), left_out) for split, folder in folders.items()}
    return replace(_draft(place, parts), warnings=left_out.warnings())


def read_imagenet_test(place: Place) -> Draft:
    """Read the folders of a variant, all of it test; ``numbered`` folders are named by label."""
    left_out = LeftOut()
    classes = class_images(place.images, "", (), left_out)
    if place.layout.options.get("numbered"):
        classes = _by_wnid(place, classes)
    return replace(_draft(place, {"test": classes}), warnings=left_out.warnings())


def _draft(place: Place, parts: dict[str, ByClass]) -> Draft:
    """Name the folders; ImageNet's own list calls some classes alike."""
    path = place.folder / "classnames.txt"
    names = {wnid: name for wnid, name, _ in _class_names(path)}
    wnids = sorted({wnid for classes in parts.values() for wnid in classes})
    for wnid in wnids:
        if wnid not in names:
            raise DataError(
                f"{shown(place.images)}: wanted folders named by the ids of {path.name}, got {wnid!r}; "
                "remove the folder or fetch the file again"
            )
    task = TaskDraft(class_names=tuple(names[wnid] for wnid in wnids))
    return replace(classes_to_draft(path, wnids, parts), tasks=(task,), unique_names=False)


def _class_names(path: Path) -> list[tuple[str, str, int | None]]:
    """Return (WordNet id, name, number if the list has them) in file order."""
    lines = read_lines(path)
    for form in FORMS:
        matches = [form.fullmatch(line) if len(line) <= LONGEST_LINE else None for _, line in lines]
        found = [match.groupdict() for match in matches if match]
        numbers = [int(fields["number"]) for fields in found if fields.get("number")]
        if len(found) == len(lines) and len(numbers) in (0, len(set(numbers))):
            break
    seen = set()
    for (number, line), match in zip(lines, matches, strict=True):
        if match is None or match["id"] in seen:
            got = f"{match['id']!r} a second time" if match else repr(line[:80])
            raise DataError(f"{shown(path)}, line {number}: wanted 'wnid name', got {got}; correct it")
        seen.add(match["id"])
    ordered: list[int] | list[None] = numbers or [None] * len(found)
    return [
        (fields["id"], fields["name"].strip().strip("\"'"), number)
        for fields, number in zip(found, ordered, strict=True)
    ]


def _by_wnid(place: Place, classes: ByClass) -> ByClass:
    """Rename folders ``0``, ``1``, ... to the ids at those places of the list, or of those numbers in it."""
    path = place.folder / "classnames.txt"
    listed = _class_names(path)
    wnids = {place if number is None else number: wnid for place, (wnid, _, number) in enumerate(listed)}
    if sorted(wnids) != list(range(len(wnids))):
        raise DataError(
            f"{shown(path)}: wanted numbers from 0 as the folders have, got {min(wnids)} to {max(wnids)}, which may be "
            "another order (ILSVRC's own); use a list without numbers, in the folders' order"
        )
    for name in classes:
        if not (name.isascii() and name.isdecimal()) or int(name) not in wnids:
            raise DataError(f"{shown(place.images)}: wanted folders 0 to {len(wnids) - 1}, got {name!r}; remove it")
    return {wnids[int(name)]: paths for name, paths in classes.items()}
