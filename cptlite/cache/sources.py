"""Rows of features out of the files of other programs, one or many, in the layouts these have.

- One file: ``npz``, ``safetensors`` and torch hold features under a name, and perhaps labels, paths and splits beside
  them; ``npy`` holds features alone.
- clip-retrieval: ``img_emb/img_emb_0.npy`` and ``metadata/metadata_0.parquet``, numbered alike.
- Lightly: a CSV of ``filenames, embedding_0, ..., embedding_{D-1}, labels``.
- A folder of files of one kind, in the order of their numbers.

Sources: ``clip_inference/writer.py`` of clip-retrieval; Lightly's documentation of custom embeddings.

Axes: N rows, n of them in a file, D joint dimension.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cptlite.cache.arrays import ARRAY_SUFFIXES, read_arrays
from cptlite.cache.columns import ROLES, ColumnNames, as_column, read_columns
from cptlite.datasets.text_files import check_regular, shown
from cptlite.errors import DataError

__all__ = ["FeatureTable", "read_source", "with_metadata"]

EMBEDDING = re.compile(r"embedding_(\d+)")
NUMBER = re.compile(r"(\d+)")
BLOCK = 4096  # rows of a CSV that are turned into numbers together
SHARDS = "img_emb"


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Rows of features, and what files say of each.

    Attributes
    ----------
    features : tuple of ndarray of shape (n, D)
        One a file, in the order of the rows.
    columns : dict of str to list
        N values, label, path or split, by these words.
    class_names : tuple of str
        In label order, where a file has them.
    layout : str
        How the files lay.
    files : tuple of Path
        All that were read.
    """

    features: tuple[np.ndarray, ...]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    layout: str
    files: tuple[Path, ...]

    @property
    def num_rows(self) -> int:
        """N."""
        return sum(map(len, self.features))

    @classmethod
    def join(cls, parts: Sequence[FeatureTable]) -> FeatureTable:
        """Put tables one behind the other; a column that some of them lack is refused."""
        columns: dict[str, list[Any]] = {}
        for role in ROLES:
            have = [role in part.columns for part in parts]
            if any(have) and not all(have):
                lacking = parts[have.index(False)].files[0]
                raise DataError(f"{shown(lacking)}: wanted a {role} of each row as the other files have, found none")
            if all(have):
                columns[role] = [value for part in parts for value in part.columns[role]]
        names = {part.class_names for part in parts if part.class_names}
        if len(names) > 1:
            raise DataError(f"wanted the same class names in all of {len(parts)} files, got others: name them alike")
        return cls(
            features=tuple(array for part in parts for array in part.features),
            columns=columns,
            class_names=next(iter(names), ()),
            layout=parts[0].layout,
            files=tuple(path for part in parts for path in part.files),
        )


def read_source(path: Path, names: ColumnNames) -> FeatureTable:
    """Read the features of a file or folder, and what it says of them.

    Parameters
    ----------
    path : Path
    names : ColumnNames

    Returns
    -------
    FeatureTable
        Arrays of the right shape and kind; their numbers have not been looked at.

    Raises
    ------
    DataError
        There is nothing, or something else, or a file is damaged.
    CptliteError
        pyarrow is not installed, and the metadata are Parquet.
    """
    if not path.exists():
        raise DataError(f"wanted features at {shown(path)}, found nothing: give a file or a folder")
    if not path.is_dir():
        return _read_file(path, names)
    if (path / SHARDS).is_dir():
        return _read_clip_retrieval(path, names)
    suffixes = {each.suffix.lower() for each in path.iterdir()} & {*ARRAY_SUFFIXES}
    if len(suffixes) != 1:
        raise DataError(
            f"wanted files of one kind ({', '.join(ARRAY_SUFFIXES)}) in the folder {shown(path)}, or {SHARDS}/, found "
            f"{' and '.join(sorted(suffixes)) or 'none'}: give one file, or a folder with one kind"
        )
    return FeatureTable.join([_read_file(each, names) for each in _numbered(path, suffixes.pop())])


def with_metadata(table: FeatureTable, path: Path, names: ColumnNames) -> FeatureTable:
    """Put what a table of its own says of the rows in place of what the files of features say."""
    columns = {**table.columns, **read_columns(path, names, table.num_rows)}
    return FeatureTable(**{**vars(table), "columns": columns, "files": (*table.files, path)})


def _numbered(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder in the order of the numbers in their names."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in NUMBER.split(path.name)]

    found = (each for each in folder.iterdir() if each.suffix.lower() == suffix and not each.name.startswith("."))
    return sorted(found, key=key)


def _read_clip_retrieval(path: Path, names: ColumnNames) -> FeatureTable:
    """Read ``img_emb`` file by file, each with the metadata of its number, Parquet or CSV."""
    arrays = _numbered(path / SHARDS, ".npy")
    if not arrays:
        raise DataError(f"wanted files {SHARDS}_0.npy, ... in {shown(path / SHARDS)}, found none: give another folder")
    parts = []
    for each in arrays:
        stem = f"metadata{each.stem.removeprefix(SHARDS)}"
        tables = [path / "metadata" / f"{stem}{suffix}" for suffix in (".parquet", ".csv")]
        table = next((table for table in tables if table.is_file()), None)
        if table is None:
            raise DataError(
                f"wanted the metadata of {shown(each)} at {shown(tables[0])} (or .csv), found none: put it there"
            )
        parts.append(with_metadata(_read_file(each, names), table, names))
    return FeatureTable(**{**vars(FeatureTable.join(parts)), "layout": "clip-retrieval"})


def _read_file(path: Path, names: ColumnNames) -> FeatureTable:
    if path.suffix.lower() == ".csv":
        return _read_lightly(path, names)
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise DataError(
            f"wanted features in {shown(path)}, got a file {path.suffix!r}: give one of {', '.join(ARRAY_SUFFIXES)}, "
            f"or a CSV with columns embedding_0, embedding_1, ..."
        )
    content = read_arrays(path)
    name = _find_features(content, names, path)
    features = _checked(content[name], path)
    rest = {key: value for key, value in content.items() if key != name}
    columns = {}
    for role in ROLES:
        column = names.find(role, rest, path) if rest else None
        if column is not None:
            columns[role] = as_column(_parsed(rest[column]), role, len(features), path)
    words = names.find("class_names", rest, path) if rest else None
    return FeatureTable(
        features=(features,),
        columns=columns,
        class_names=() if words is None else tuple(map(str, _names(_parsed(rest[words]), path))),
        layout=path.suffix.lower().removeprefix("."),
        files=(path,),
    )


def _find_features(content: Mapping[str, Any], names: ColumnNames, path: Path) -> str:
    """Name of the features: the one given, the usual one, or the one array of that shape."""
    if "" in content:
        return ""
    found = names.find("features", content, path)
    if found is not None:
        return found
    wide = [name for name, value in content.items() if isinstance(value, np.ndarray) and value.ndim == 2]
    if len(wide) == 1:
        return wide[0]
    there = shown(", ".join(map(repr, content)) or "nothing")[:200]
    raise DataError(f"{shown(path)}: wanted features under one name, found {there}: say which with --features-key")


def _checked(features: Any, path: Path) -> np.ndarray:
    """Return features if they are of the right shape and kind."""
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        got = f"{features.dtype} of shape {features.shape}" if isinstance(features, np.ndarray) else "something else"
        raise DataError(
            f"{shown(path)}: wanted features of shape (rows, dimension), float16, float32 or float64, got {got}: save "
            f"one vector a row"
        )
    if not features.size:
        raise DataError(f"{shown(path)}: wanted rows of features, got an array of shape {features.shape}: save some")
    return features


def _parsed(value: Any) -> Any:
    """Value of a text in the metadata of safetensors, which holds lists as JSON."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _names(value: Any, path: Path) -> Sequence[Any]:
    """Class names as a list, or as an array of texts."""
    return as_column(value, "name", len(value) if hasattr(value, "__len__") else 0, path)


def _read_lightly(path: Path, names: ColumnNames) -> FeatureTable:
    check_regular(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = {int(match[1]): at for at, name in enumerate(header) if (match := EMBEDDING.fullmatch(name))}
            if not places or sorted(places) != list(range(len(places))):
                raise DataError(
                    f"{shown(path)}: wanted columns embedding_0, embedding_1, ... in the first line, found "
                    f"{len(places)} of them: give a CSV as Lightly writes it, or features in npy and this by --metadata"
                )
            found = {role: names.find(role, header, path) for role in ROLES}
            chosen = {role: header.index(name) for role, name in found.items() if name is not None}
            columns: dict[str, list[Any]] = {role: [] for role in chosen}
            order = [places[number] for number in range(len(places))]
            blocks = list(_csv_blocks(reader, order, chosen, columns, len(header), path))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: wanted a CSV, cannot read it as one ({error}): write it again") from None
    features = _checked(np.concatenate(blocks) if blocks else np.empty((0, len(order)), np.float32), path)
    return FeatureTable(features=(features,), columns=columns, layout="lightly", files=(path,))


def _csv_blocks(
    reader: Any, order: Sequence[int], chosen: Mapping[str, int], columns: dict[str, list[Any]], width: int, path: Path
) -> Iterator[np.ndarray]:
    """Give features (n, D) block by block, and put the other columns of the rows into ``columns``."""
    rows: list[list[float]] = []
    for row in filter(None, reader):
        try:
            if len(row) != width:
                raise ValueError(f"{len(row)} fields where the first line has {width}")
            rows.append([float(row[place]) for place in order])
        except ValueError as error:
            raise DataError(
                f"{shown(path)}, line {reader.line_num}: wanted a row of numbers, got something else ({shown(error)}): "
                f"correct the line"
            ) from None
        for role, place in chosen.items():
            columns[role].append(row[place].strip())
        if len(rows) == BLOCK:
            yield np.array(rows, np.float32)
            rows.clear()
    if rows:
        yield np.array(rows, np.float32)
