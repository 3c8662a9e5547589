"""Rows of features given names: from labels, paths and splits in files' words to a dataset as the cache has it.

Axes: N rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cptlite.cache.columns import ColumnNames
from cptlite.cache.sources import FeatureTable, read_source, with_metadata
from cptlite.datasets.class_folders import SPLIT_WORDS
from cptlite.datasets.csv_files import split_word
from cptlite.datasets.drafts import Place, build_dataset, classes_to_draft
from cptlite.datasets.partition import partition, settle_notes, settle_splits
from cptlite.datasets.specs import DatasetSpec
from cptlite.datasets.text_files import read_json, read_lines, shown
from cptlite.datasets.types import Dataset
from cptlite.errors import DataError

__all__ = ["ImportRequest", "label_rows", "read_request"]


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What is to be imported.

    Attributes
    ----------
    sources : tuple of (str, Path)
        Files or folders, each with the split that all of its rows are of, or "".
    spec : DatasetSpec
        Name and words of the dataset.
    metadata : Path, optional
        Table of labels, paths and splits of all rows, in their order.
    class_names : Path, optional
        Names in label order: a line each, or JSON.
    columns : ColumnNames
    label_from_path : bool
        The class is the name of the folder that an image lies in, and the split that of the folder above where all
        of those are split words.
    dtype : str
        "float16" or "float32"; "" takes that of the source.
    seed : int
        Of the split, where none is given.
    """

    sources: tuple[tuple[str, Path], ...]
    spec: DatasetSpec
    metadata: Path | None = None
    class_names: Path | None = None
    columns: ColumnNames = ColumnNames()
    label_from_path: bool = False
    dtype: str = ""
    seed: int = 0


def read_request(request: ImportRequest) -> FeatureTable:
    """Read all sources, with the table of metadata and the class names that go with them."""
    parts = []
    for split, path in request.sources:
        part = read_source(path, request.columns)
        if split:
            part = replace(part, columns={**part.columns, "split": [split] * part.num_rows})
        parts.append(part)
    table = FeatureTable.join(parts)
    if request.metadata is not None:
        table = with_metadata(table, request.metadata, request.columns)
    return replace(table, class_names=_class_names(request.class_names) or table.class_names)


def _class_names(path: Path | None) -> tuple[str, ...]:
    """Names in label order, of a text with a line each or of JSON: a list, or a table from number to name."""
    if path is None:
        return ()
    if not path.exists():
        raise DataError(f"wanted class names in {shown(path)}, found no file: give the path of one")
    if path.suffix.lower() != ".json":
        return tuple(line for _, line in read_lines(path))
    content = read_json(path)
    if isinstance(content, dict) and set(content) == {str(number) for number in range(len(content))}:
        content = [content[str(number)] for number in range(len(content))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(
            f'{shown(path)}: wanted a list of names, or a table {{"0": name, ...}}, got another: correct it'
        )
    return tuple(content)


def label_rows(request: ImportRequest, table: FeatureTable) -> tuple[Dataset, dict[str, int]]:
    """Sort the rows into splits and classes; also the row of each path."""
    columns, source = table.columns, table.files[0]
    paths = [str(path) for path in columns.get("path", ())] or [f"row-{row:08}" for row in range(table.num_rows)]
    folders = [path.replace("\\", "/").split("/")[:-1] for path in paths]
    splits = [str(split) for split in columns.get("split", ())]
    if request.label_from_path:
        if not all(folders):
            raise DataError(f"wanted a folder in the path of each row to take its class from, got {shown(paths[0])!r}")
        labels: list[Any] = [each[-1] for each in folders]
        above = [each[-2].casefold() if len(each) > 1 else "" for each in folders]
        splits = splits or (above if set(above) <= SPLIT_WORDS.keys() else [])
    elif "label" in columns:
        labels = columns["label"]
    else:
        raise DataError(
            f"wanted a label of each row, found none in {shown(source)}: say where with --label-column, give "
            f"--metadata FILE, or --label-from-path where images lie in folders of their classes"
        )
    names, numbers = _classes(labels, table.class_names, source)
    keys = _inside(paths)
    places = {key: row for row, key in enumerate(keys)}
    if len(places) < len(keys):
        twice = next(key for row, key in enumerate(keys) if places[key] != row)
        raise DataError(
            f"wanted each path once, got {shown(twice)!r} twice: leave one out, or give another --path-column"
        )
    parts: dict[str, dict[str, list[str]]] = {}
    for row, key in enumerate(keys):
        split = split_word(splits[row], f"row {row}") if splits else ""
        parts.setdefault(split, {}).setdefault(names[numbers[row]], []).append(key)
    settled = partition(parts[""], request.seed) if "" in parts else settle_splits(parts, source, request.seed)
    notes = ("no split given: each class is split 50/20/30",) if "" in parts else settle_notes(parts)
    draft = replace(classes_to_draft(source, names, settled), notes=notes)
    dataset = build_dataset(
        request.spec, Place(name=request.spec.name, folder=Path(), layout=request.spec.layout), draft
    )
    return dataset, places


def _classes(labels: Sequence[Any], given: tuple[str, ...], source: Path) -> tuple[list[str], list[int]]:
    """Class names, and the number of each row's class among them."""
    texts = [str(label).strip() for label in labels]
    counted = all(text.isdecimal() for text in texts)
    if not counted or (given and set(texts) <= set(given)):
        names = list(given) or sorted(set(texts))
        unknown = sorted(set(texts) - set(names))
        if unknown:
            raise DataError(
                f"{shown(source)}: wanted labels among {len(names)} class names, got {shown(unknown[0])!r}: name it too"
            )
        number = {name: place for place, name in enumerate(names)}
        return names, [number[text] for text in texts]
    numbers = [int(text) if len(text) < 10 else 10**9 for text in texts]
    if given and max(numbers) >= len(given):
        raise DataError(
            f"{shown(source)}: wanted labels below {len(given)}, the number of class names, got {max(numbers)}: give "
            f"all names, and labels that count from 0"
        )
    if given:
        return list(given), numbers
    there = sorted(set(numbers))
    place_of = {each: place for place, each in enumerate(there)}
    return [str(each) for each in there], [place_of[each] for each in numbers]


def _inside(paths: Sequence[str]) -> list[str]:
    """Paths with forward slashes, relative to the folder that all of them lie in where they are absolute."""
    plain = [path.strip().replace("\\", "/") for path in paths]
    if not any(path.startswith("/") for path in plain):
        return plain
    if not all(path.startswith("/") for path in plain):
        raise DataError("wanted all paths absolute or all relative, got both: write them alike")
    root = os.path.commonpath([os.path.dirname(path) for path in plain])
    return [os.path.relpath(path, root) for path in plain]
