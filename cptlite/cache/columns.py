"""What is known of each row of features beside the numbers: label, path and split, in a file's own words.

Axes: N rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cptlite.cache.arrays import read_arrays
from cptlite.datasets.text_files import check_regular, read_text, shown
from cptlite.errors import CptliteError, DataError

__all__ = ["ROLES", "TABLE_SUFFIXES", "ColumnNames", "as_column", "read_columns"]

ROLES = ("label", "path", "split")
USUAL = {
    "features": ("features", "embeddings", "image_features", "image_embeddings", "img_emb", "embedding", "feats", "x"),
    "label": ("label", "labels", "class", "target", "targets", "y"),
    "path": ("path", "paths", "image_path", "filename", "filenames", "image"),
    "split": ("split", "splits"),
    "class_names": ("class_names", "classnames", "classes", "names"),
}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".npy")
SEPARATORS = ",;\t|"
SHOWN = 12  # names in a message


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """What the user calls the parts of a file; where nothing is given the usual names are looked for.

    Attributes
    ----------
    features, label, path, split, class_names : str
    """

    features: str = ""
    label: str = ""
    path: str = ""
    split: str = ""
    class_names: str = ""

    def find(self, role: str, names: Iterable[str], source: Path) -> str | None:
        """Find the name of a part among those of a file; capitals do not tell names apart.

        Raises
        ------
        DataError
            The user named one that is not there.
        """
        known = {name.strip().casefold(): name for name in names}
        given = getattr(self, role)
        if given and given.casefold() not in known:
            listed = ", ".join(repr(name) for name in list(known.values())[:SHOWN]) or "none"
            raise DataError(f"{shown(source)}: wanted a column {given!r}, found {shown(listed)}: give one of these")
        usual = (given.casefold(),) if given else USUAL[role]
        return next((known[name] for name in usual if name in known), None)


def as_column(value: Any, role: str, rows: int, source: Path) -> list[Any]:
    """Turn a part of a file into N texts or whole numbers.

    Raises
    ------
    DataError
        It has another number of rows, or holds something else.
    """
    if isinstance(value, np.ndarray):
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        fits = value.ndim == 1 and value.dtype.kind in "iuUS"
        if not fits:
            raise DataError(
                f"{shown(source)}: wanted a {role} of each row, whole numbers or texts of shape (rows,), got "
                f"{value.dtype} of shape {value.shape}: save those"
            )
        value = np.char.decode(value, "utf-8").tolist() if value.dtype.kind == "S" else value.tolist()
    if not isinstance(value, list | tuple) or not all(type(each) in (int, str) for each in value):
        raise DataError(
            f"{shown(source)}: wanted a {role} of each row, whole numbers or texts, got something else: save a list"
        )
    if len(value) != rows:
        raise DataError(
            f"{shown(source)}: wanted a {role} of each of {rows} rows of features, got {len(value)}: files and rows "
            f"must be in one order, none left out"
        )
    return list(value)


def read_columns(path: Path, names: ColumnNames, rows: int) -> dict[str, list[Any]]:
    """Read what a table says of N rows.

    Parameters
    ----------
    path : Path
        CSV, Parquet (where pyarrow is installed), or npy with labels alone.
    names : ColumnNames
    rows : int
        N.

    Returns
    -------
    dict of str to list
        By role, of those that it has.

    Raises
    ------
    DataError
        It is not there, damaged, of another number of rows, or has none of the columns.
    CptliteError
        It is Parquet, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(f"wanted labels in {shown(path)}, found no file: give the path of one with --metadata")
    if suffix == ".npy":
        return {"label": as_column(read_arrays(path).get(""), "label", rows, path)}
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{shown(path)}: wanted a table, {', '.join(TABLE_SUFFIXES)}, got {path.suffix!r}: convert it")
    table = _read_parquet(path, names, rows) if suffix == ".parquet" else _read_csv(path, names)
    if not table:
        wanted = ", ".join(USUAL[role][0] for role in ROLES)
        raise DataError(
            f"{shown(path)}: wanted columns such as {wanted}, found none of them: say which with --label-column, "
            f"--path-column and --split-column"
        )
    return {role: as_column(values, role, rows, path) for role, values in table.items()}


def _chosen(header: Sequence[str], names: ColumnNames, path: Path) -> dict[str, str]:
    """Name of each part that a table has, by role."""
    found = {role: names.find(role, header, path) for role in ROLES}
    return {role: name for role, name in found.items() if name is not None}


def _read_csv(path: Path, names: ColumnNames) -> Mapping[str, list[Any]]:
    """Read the wanted columns, separated by whatever separates the first line."""
    text = read_text(path)
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        chosen = {role: header.index(name) for role, name in _chosen(header, names, path).items()}
        table: dict[str, list[Any]] = {role: [] for role in chosen}
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{shown(path)}, line {reader.line_num}: wanted {len(header)} fields as the first line has, got "
                    f"{len(row)}: quote a field that holds the separator"
                )
            for role, column in chosen.items():
                table[role].append(row[column].strip())
    except csv.Error as error:
        raise DataError(f"{shown(path)}: wanted a CSV, cannot read it as one ({error}): write it again") from None
    return table


def _read_parquet(path: Path, names: ColumnNames, rows: int) -> Mapping[str, list[Any]]:
    """Read the wanted columns; the number of rows is compared before any is read."""
    check_regular(path)
    try:
        from pyarrow import parquet
    except ImportError:
        raise CptliteError(
            f"reading {shown(path)} needs pyarrow, which is not installed. Install it with: pip install pyarrow; or "
            f"save the table as CSV and give it with --metadata"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows != rows:
                raise DataError(
                    f"{shown(path)}: wanted a row for each of {rows} rows of features, got {file.metadata.num_rows}: "
                    f"files and rows must be in one order, none left out"
                )
            chosen = _chosen(file.schema_arrow.names, names, path)
            table = file.read(columns=list(chosen.values()))
            return {role: table.column(name).to_pylist() for role, name in chosen.items()}
    except DataError:
        raise
    except Exception as error:  # pyarrow has a dozen kinds
        raise DataError(
            f"{shown(path)}: wanted a Parquet table, cannot read it as one ({shown(error)[:200]}): write or "
            f"fetch it again"
        ) from None
