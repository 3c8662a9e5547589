"""Reading datasets described by text lists: FGVC-Aircraft's files and a user's CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from cptlite.datasets.class_folders import SPLIT_WORDS
from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.partition import DEFAULT_SEED, partition, settle_splits
from cptlite.datasets.tables import near_matches
from cptlite.datasets.text_files import read_lines, read_text
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = ["read_csv", "read_fgvc"]

CSV_COLUMNS = "path,label[,split]"

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
    return classes_to_draft(variants, names, parts)


def _fgvc_images(path: Path, names: list[str]) -> ByClass:
    """Image paths of one list by variant."""
    images: ByClass = {name: [] for name in names}
    for number, line in read_lines(path):
        identity, _, name = line.partition(" ")
        if name.strip() not in images:
            raise DataError(
                f"{path}, line {number}: wanted 'ID name' with a name of variants.txt, got {line!r}"
                f"{near_matches(name, names)}; fetch both files of the same release"
            )
        images[name.strip()].append(f"{identity}.jpg")
    return images


def read_csv(place: Place) -> Draft:
    """Read a CSV of ``path,label[,split]``; labels are class names, paths relative to the images.

    Without a split column each class is split 50/20/30; with one, what is missing is completed as for
    own train, validation and test folders.

    Raises
    ------
    DataError
        Columns missing, an empty field, an unknown split word, a path listed twice.
    """
    path, seed = place.split_file, place.layout.options.get("seed", DEFAULT_SEED)
    try:
        rows = _csv_rows(path)
    except csv.Error as error:
        raise DataError(f"{path}: wanted a CSV, cannot read it as one ({error}); look for an unclosed quote") from None
    parts: dict[str, ByClass] = {}
    for image, label, split in rows:
        parts.setdefault(split, {}).setdefault(label, []).append(image)
    names = sorted({label for _, label, _ in rows})
    settled = partition(parts[""], seed) if "" in parts else settle_splits(parts, path, seed)
    return classes_to_draft(path, names, settled)


def _csv_rows(path: Path) -> list[tuple[str, str, str]]:
    """Return (path, label, split); split is "" in every row of a file without that column."""
    reader = csv.DictReader(read_text(path).splitlines())
    header = [name.strip().lower() for name in reader.fieldnames or ()]
    if not {"path", "label"} <= set(header):
        raise DataError(
            f"{path}: wanted a first line {CSV_COLUMNS}, got {','.join(header) or 'nothing'}; "
            "name the columns, separated by commas"
        )
    reader.fieldnames = header
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for row in reader:
        image, label = ((row[key] or "").strip() for key in ("path", "label"))
        image = image.replace("\\", "/")
        if not image or not label or image in seen:
            got = f"{image!r} a second time" if image in seen else f"{image!r},{label!r}"
            raise DataError(
                f"{path}, line {reader.line_num}: wanted a new path and its label, got {got}; correct the line"
            )
        seen.add(image)
        split = _csv_split(path, reader.line_num, row["split"]) if "split" in header else ""
        rows.append((image, label, split))
    return rows


def _csv_split(path: Path, number: int, text: str | None) -> str:
    """Return the split a line names."""
    word = (text or "").strip().lower()
    if word not in SPLIT_WORDS:
        raise DataError(
            f"{path}, line {number}: wanted split to be one of {', '.join(SPLIT_WORDS)}, "
            f"got {word!r}; correct the line, or leave the column out for a 50/20/30 split"
        )
    return SPLIT_WORDS[word]
