"""Predictions image by image: as a table, CSV, JSON or Parquet, each written as they come, so that none are held."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cptlite.errors import CptliteError
from cptlite.files import replacing_alone
from cptlite.reporting.tables import Table

if TYPE_CHECKING:
    from cptlite.runs.predict import ImagePrediction

__all__ = ["CsvSink", "JsonSink", "Sink", "TableSink", "csv_file", "parquet_file"]

TABLE_ROWS = 500  # that are held, so that their columns can be as wide as they need
PARQUET_ROWS = 8192  # of a row group
COLUMNS = ("image", "task", "rank", "class", "probability", "label")


class Sink(Protocol):
    """Takes predictions one after the other."""

    def add(self, prediction: ImagePrediction) -> None:
        """Take one."""

    def finish(self) -> None:
        """Write what is still held."""


def _rows_of(prediction: ImagePrediction) -> Iterator[tuple[Any, ...]]:
    """One row of `COLUMNS` for each class that is named; the label, if it has one, where it is of the row's task."""
    for task, ranked in prediction.tasks.items():
        label = prediction.label[1] if prediction.label and prediction.label[0] == task else ""
        for rank, (name, probability) in enumerate(ranked, start=1):
            yield prediction.image, task, rank, name, probability, label


class TableSink:
    """A row for each task of each image, which the first names: best class, percent, and those that come next.

    Parameters
    ----------
    show : callable
        Takes the tables: one of all rows, or, of more than `TABLE_ROWS`, one after the other.
    title : str
    several : bool
        Whether there are several tasks, which then have a column.
    """

    def __init__(self, show: Callable[[Table], None], title: str, *, several: bool) -> None:
        self.show, self.title, self.several = show, title, several
        self.rows: list[tuple[str, ...]] = []

    def add(self, prediction: ImagePrediction) -> None:
        """Take one; an image that could not be read has no row."""
        image = prediction.image
        for task, ((best, probability), *others) in prediction.tasks.items():
            rest = ", ".join(f"{name} {100 * value:.1f}" for name, value in others)
            row = (best, f"{100 * probability:.1f}", rest)
            self.rows.append((image, task, *row) if self.several else (image, *row))
            image = ""
        if len(self.rows) >= TABLE_ROWS:
            self.finish()

    def finish(self) -> None:
        """Show the rows that there are."""
        columns = ("image", *(["task"] if self.several else []), "class", "%", "then")
        words = tuple(place for place, name in enumerate(columns) if name != "%")
        if self.rows:
            self.show(Table(title=self.title, columns=columns, rows=tuple(self.rows), words=words))
        self.rows = []


class CsvSink:
    """A row for each class that is named: `COLUMNS`."""

    def __init__(self, file: TextIO) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(COLUMNS)

    def add(self, prediction: ImagePrediction) -> None:
        """Take one; an image that could not be read has no row."""
        for image, task, rank, name, probability, label in _rows_of(prediction):
            self.writer.writerow((_writable(image), task, rank, name, f"{probability:.4f}", label))

    def finish(self) -> None:
        """All is written."""


class JsonSink:
    """``{..., "results": [...]}`` with an entry for each image, those that could not be read among them.

    Parameters
    ----------
    file : text file
    facts : dict
        Written before the results.
    """

    def __init__(self, file: TextIO, facts: dict[str, Any]) -> None:
        self.file, self.between = file, ""
        head = json.dumps(facts)[:-1]
        file.write(f'{head}{", " if facts else ""}"results": [')

    def add(self, prediction: ImagePrediction) -> None:
        """Take one."""
        entry: dict[str, Any] = {"image": prediction.image}
        if prediction.reason:
            entry["error"] = prediction.reason
        if prediction.label:
            entry["label"] = dict(zip(("task", "class"), prediction.label, strict=True))
        entry["tasks"] = {
            task: [{"class": name, "probability": round(value, 6)} for name, value in ranked]
            for task, ranked in prediction.tasks.items()
        }
        self.file.write(f"{self.between}\n {json.dumps(entry)}")  # in ASCII, which any terminal and any path takes
        self.between = ","

    def finish(self) -> None:
        """Close the list."""
        self.file.write("\n]}\n")


@contextmanager
def csv_file(path: Path) -> Iterator[CsvSink]:
    """Write a CSV: all of it or nothing."""
    with replacing_alone(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield CsvSink(file)


@contextmanager
def parquet_file(path: Path) -> Iterator[Sink]:
    """Write a Parquet file with the CSV's columns: all of it or nothing.

    Raises
    ------
    CptliteError
        pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CptliteError(
            "writing Parquet needs pyarrow, which is not installed: install it with `pip install pyarrow`, or give "
            "--csv, which has the same columns"
        ) from error
    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.string(), pyarrow.float32(), pyarrow.string())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with replacing_alone(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def write(rows: list[tuple[Any, ...]]) -> None:
            arrays = [pyarrow.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

        yield _RowGroups(write)


class _RowGroups:
    """Gathers rows until there are enough for a row group."""

    def __init__(self, write: Callable[[list[tuple[Any, ...]]], None]) -> None:
        self.write = write
        self.rows: list[tuple[Any, ...]] = []

    def add(self, prediction: ImagePrediction) -> None:
        self.rows += [(_writable(image), *rest) for image, *rest in _rows_of(prediction)]
        if len(self.rows) >= PARQUET_ROWS:
            self.finish()

    def finish(self) -> None:
        if self.rows:
            self.write(self.rows)
        self.rows = []


def _writable(path: str) -> str:
    r"""Path as UTF-8 can hold it: bytes of a name that are no text are written as ``\udcff``."""
    return path.encode("utf-8", "backslashreplace").decode()
