"""Reading a user's CSV as spreadsheets, scripts and other systems write it.

The separator is found in the first line: a comma, a semicolon (Excel where the comma is decimal), a tab or a bar.
Excel's own first line ``sep=;`` is passed over.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cptlite.datasets.class_folders import SPLIT_WORDS
from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.listed import listed_path, path_key
from cptlite.datasets.partition import DEFAULT_SEED, partition, settle_notes, settle_splits
from cptlite.datasets.text_files import read_text, shown
from cptlite.errors import DataError

__all__ = ["CSV_COLUMNS", "read_csv", "split_word"]

CSV_COLUMNS = "path,label[,split]"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\r?\n', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A CSV that is open for reading: where its wanted columns stand, and its rows to come with their line numbers."""

    path: Path
    separator: str
    num_fields: int
    columns: Mapping[str, int]
    rows: Iterator[tuple[int, list[str]]]


def read_csv(place: Place) -> Draft:
    """Read a CSV of ``path,label[,split]``; labels are class names, paths relative to the images or absolute.

    The options ``path_column``, ``label_column`` and ``split_column`` give the columns other names. Without a split
    column each class is split 50/20/30; with one, what is missing is completed as for own train, validation and test
    folders.

    Raises
    ------
    DataError
        Columns missing or doubled, a row of more or fewer fields than the header, an empty field, an unknown split
        word, a path listed twice.
    """
    path, options = place.split_file, place.layout.options
    seed = options.get("seed", DEFAULT_SEED)
    try:
        table = _open_table(path, options)
        rows = list(_image_rows(table, place.images))
    except csv.Error as error:
        raise DataError(
            f"{shown(path)}: wanted a CSV, cannot read it as one ({error}); look for an unclosed quote"
        ) from None
    parts: dict[str, dict[str, list[str]]] = {}
    for image, label, split in rows:
        parts.setdefault(split, {}).setdefault(label, []).append(image)
    names = sorted({label for _, label, _ in rows})
    settled = partition(parts[""], seed) if "" in parts else settle_splits(parts, path, seed)
    notes = () if "" in parts else settle_notes(parts)
    if table.separator != ",":
        notes = (f"columns separated by {SEPARATORS.get(table.separator, repr(table.separator))}", *notes)
    return replace(classes_to_draft(path, names, settled), listed=True, notes=notes)


def _open_table(path: Path, options: Mapping[str, str]) -> _Table:
    """Find the separator and the wanted columns."""
    text = read_text(path)
    excel = EXCEL_LINE.match(text)
    text = text[excel.end() :] if excel else text
    wanted = {name: options.get(f"{name}_column", name).strip().casefold() for name in ("path", "label", "split")}
    needed = {name for key, name in wanted.items() if key != "split" or "split_column" in options}
    for separator in [excel.group(1)] if excel else SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
        try:
            header = [name.strip().casefold() for name in next(reader, [])]
        except csv.Error:  # quoted names, and another separator
            continue
        if needed <= set(header):
            doubled = [name for name in wanted.values() if header.count(name) > 1]
            if doubled:
                raise DataError(f"{shown(path)}: wanted one column {doubled[0]!r}, got two; rename one")
            columns = {key: header.index(name) for key, name in wanted.items() if name in header}
            rows = ((reader.line_num + bool(excel), row) for row in reader)
            return _Table(path=path, separator=separator, num_fields=len(header), columns=columns, rows=rows)
    usual = needed == {"path", "label"}
    got = next((line for line in text.splitlines() if line.strip()), "nothing")
    raise DataError(
        f"{shown(path)}: wanted a first line {CSV_COLUMNS if usual else ' and '.join(sorted(needed))}, got "
        f"{shown(got)[:200]}; name the columns, separated by commas, semicolons or tabs, or say which they are: "
        "--path-column and --label-column, or path_column and label_column in a manifest"
    )


def _image_rows(table: _Table, images: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (path, label, split); split is "" in every row of a file without that column."""
    seen: set[str] = set()
    spelled: dict[str, str] = {}  # labels that differ in the spelling of an accent are one class
    for number, row in table.rows:
        if not any(field.strip() for field in row):
            continue
        where = f"{shown(table.path)}, line {number}"
        if len(row) != table.num_fields:
            raise DataError(
                f"{where}: wanted {table.num_fields} fields as the first line has, got {len(row)} "
                f"({shown(table.separator.join(row))[:80]}); quote a field that holds the separator: "
                f'"tit{shown(table.separator)} blue"'
            )
        text, label = (row[table.columns[key]].strip() for key in ("path", "label"))
        image = listed_path(text, images)
        key = path_key(image) if image else ""
        if not image or not label or key in seen:
            got = f"{image!r} a second time" if key in seen else f"{image!r},{label!r}"
            raise DataError(f"{where}: wanted a new path and its label, got {got}; correct the line")
        seen.add(key)
        split = split_word(row[table.columns["split"]], where) if "split" in table.columns else ""
        yield image, spelled.setdefault(unicodedata.normalize("NFC", label), label), split


def split_word(text: str, where: str) -> str:
    """Return the split that a line, or a row of another table, names."""
    word = text.strip().lower()
    if word not in SPLIT_WORDS:
        raise DataError(
            f"{where}: wanted split to be one of {', '.join(SPLIT_WORDS)}, "
            f"got {shown(word)!r}; correct the line, or leave the column out for a 50/20/30 split"
        )
    return SPLIT_WORDS[word]
