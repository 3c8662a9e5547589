r"""Results as one long CSV, a row per run, task and metric, and read from it again: a table kept without its runs.

The columns are `COLUMNS`, then ``config.<option>`` for what the run was configured as, then ``cache.<field>`` for what
the features of the row's task were cached as. Scores are in [0, 1]. A cell is the text itself where that is plain, else
JSON: numbers, lists, ``true``, and texts that look like one of these, are empty, would steer a terminal or start a
formula in a spreadsheet. What a run does not have is an empty cell.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cptlite.datasets.text_files import read_text, shown
from cptlite.errors import DataError
from cptlite.reporting.checks import Result, find_wrong
from cptlite.runs.predictions import suite_scores
from cptlite.shots import read_shots, say_shots

__all__ = ["COLUMNS", "MOST_COLUMNS", "long_form", "read_cell", "read_long_form"]

RUN = ("suite", "method", "variant", "recipe", "backbone", "shots", "seed")
TASK = ("task", "metric", "value", "counts", "held_out", "rows")
COST = ("parameters", "seconds", "folder")
COLUMNS = (*RUN, *TASK, *COST)
"""``counts``: whether the metric is the one that the task reports; ``seconds``: of the whole run."""

WHOLE = ("acc1", "mean_per_class_recall")
HALVES = ("base", "new", "harmonic")
GENERALISED = tuple(f"generalised_{name}" for name in HALVES)
METRICS = (*WHOLE, *HALVES, *GENERALISED)
CONFIG, CACHE = "config.", "cache."

MOST_BYTES = 2**28
MOST_COLUMNS = 500
FORMULA = ("=", "+", "-", "@")


def long_form(results: Iterable[Result]) -> str:
    """Write results as CSV.

    Parameters
    ----------
    results : iterable of mapping

    Returns
    -------
    str
        Lines that end in a newline, the heading first; rows in the order of the results, then of their tasks.
    """
    rows = [row for result in results for row in _rows(result)]
    names = dict.fromkeys(name for row in rows for name in row)
    own = [name for prefix in (CONFIG, CACHE) for name in names if name.startswith(prefix)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *own))
    writer.writerows([row.get(name, "") for name in (*COLUMNS, *own)] for row in rows)
    return text.getvalue()


def _rows(result: Result) -> Iterator[dict[str, str]]:
    """Cells of a result by column; those of a run are on each of its rows."""
    seconds = result.get("seconds") or {}
    run: dict[str, Any] = {name: result.get(name) for name in (*RUN, *COST)}
    run |= {"shots": say_shots(read_shots(result["shots"])), "seconds": seconds.get("total", sum(seconds.values()))}
    cells = {name: "" if value in (None, "") else _cell(value) for name, value in run.items()}
    config = {name: value for name, value in (result.get("config") or {}).items() if name not in ("shots", "seed")}
    cells |= {f"{CONFIG}{_cell(name)}": _cell(value) for name, value in config.items()}
    for task, scores in result["tasks"].items():
        cache = (result.get("caches") or {}).get(_dataset(task)) or {}
        own = {"task": _cell(task), "held_out": _cell(bool(scores.get("held_out"))), "rows": _cell(scores.get("rows"))}
        own |= {f"{CACHE}{_cell(name)}": _cell(value) for name, value in cache.items()}
        for metric, value in _metrics(scores):
            counts = metric == scores["metric"]
            yield cells | own | {"metric": metric, "value": _cell(value), "counts": _cell(counts)}


def _dataset(task: str) -> str:
    """Name of the dataset, and so of the cache, that a task is of: ``fashion20`` of ``fashion20/pants-type``."""
    return task.split("/")[0]


def _metrics(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    halves = {**scores, **{f"generalised_{name}": value for name, value in (scores.get("generalised") or {}).items()}}
    for metric in METRICS if "harmonic" in scores else WHOLE:
        if metric in halves:
            yield metric, halves[metric]


def _cell(value: Any) -> str:
    if isinstance(value, str) and value == value.strip() and value.isprintable() and not value.startswith(FORMULA):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value if value and not value.startswith('"') else json.dumps(value)
    return json.dumps(value)


def read_cell(cell: str) -> Any:
    """Read what a cell of `long_form` stands for."""
    try:
        return json.loads(cell, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return cell


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def read_long_form(path: Path) -> list[Result]:
    """Read what `long_form` wrote, whatever order its rows and columns are in now; rows may be left out.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of mapping
        Results as of `load_results`, of the tasks that have rows: their suite score is worked out from these.

    Raises
    ------
    DataError
        It is no such file, is too large, or a value is none that a run can have.
    """
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{shown(path)}: wanted at most {MOST_BYTES >> 20} MiB of results, got more: split the file")
    runs: dict[tuple[str, ...], Result] = {}
    folders: dict[str, tuple[str, ...]] = {}
    for line, cells in _lines(path):
        key = tuple(cell for name, cell in cells.items() if name not in TASK and not name.startswith(CACHE))
        folder = cells.get("folder", "")
        if folder and folders.setdefault(folder, key) != key:
            raise _wrong(path, line, f"one configuration, shots and seed of the run in {shown(folder)}", "another")
        if key not in runs:
            runs[key] = _run(path, line, cells)
        _add(path, line, cells, runs[key])
    if not runs:
        raise DataError(f"{shown(path)} holds no results: write it with cptlite report RUNS --format csv")
    return [_whole(path, result) for result in runs.values()]


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Cells by column of each row, with its line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        needed = [name for name in COLUMNS if name not in header and name not in ("held_out", "rows", *COST)]
        strange = [name for name in header if name not in COLUMNS and not name.startswith((CONFIG, CACHE))]
        if needed or strange or len(header) != len(set(header)) or len(header) > MOST_COLUMNS:
            said = f"it lacks {', '.join(needed)}" if needed else f"it has the columns {', '.join(header)}"
            raise DataError(f"{shown(path)} is no CSV that cptlite report --format csv wrote: {shown(said):.200}")
        for cells in reader:
            if len(cells) != len(header):
                raise _wrong(path, reader.line_num, f"{len(header)} cells", f"{len(cells)}")
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise _wrong(path, reader.line_num, "a row of CSV", f"what cannot be read as one ({error})") from None


def _own(prefix: str, cells: Mapping[str, str]) -> dict[str, Any]:
    """Values of the columns whose names begin so."""
    own = {name.removeprefix(prefix): cell for name, cell in cells.items() if name.startswith(prefix) and cell}
    return {str(read_cell(name)): read_cell(cell) for name, cell in own.items()}


def _run(path: Path, line: int, cells: Mapping[str, str]) -> dict[str, Any]:
    """Take what a row says of its run."""
    result = {name: read_cell(cells[name]) for name in (*RUN, "parameters", "folder") if cells.get(name)}
    config = _own(CONFIG, cells)
    if config:
        result["config"] = {**config, "shots": result.get("shots"), "seed": result.get("seed")}
    if cells.get("seconds"):
        result["seconds"] = {"total": read_cell(cells["seconds"])}
    result = {"folder": str(path), **result, "caches": {}, "tasks": {}, "suite_score": 0.0}
    wrong = find_wrong({"shots": None, **result, "tasks": {"": {"metric": "none", "none": 0}}})
    if wrong or not isinstance(result["folder"], str):
        raise _wrong(path, line, *(wrong or "a text as folder, got a number").split(", got ", 1))
    return result


def _add(path: Path, line: int, cells: Mapping[str, str], result: Result) -> None:
    """Put the score of a row to its run."""
    task, metric, value = read_cell(cells["task"]), cells["metric"], read_cell(cells["value"])
    if not isinstance(task, str) or not task:
        raise _wrong(path, line, "the name of a task", repr(cells["task"]))
    if metric not in METRICS:
        raise _wrong(path, line, f"a metric of {', '.join(METRICS)}", repr(metric))
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise _wrong(path, line, f"{metric} from 0 to 1", repr(cells["value"]))
    flags = {name: read_cell(cells.get(name) or "false") for name in ("counts", "held_out")}
    rows = read_cell(cells.get("rows") or "null")
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise _wrong(path, line, "true or false as counts and held_out", f"{cells['counts']!r}")
    if rows is not None and (type(rows) is not int or not 0 <= rows < 2**63):
        raise _wrong(path, line, "a whole number as rows", repr(cells["rows"]))
    scores = result["tasks"].setdefault(task, {"rows": rows or 0})
    if metric in scores:
        raise _wrong(path, line, f"one {metric} of task {task!r:.40} in a run", "another")
    scores[metric] = value
    if flags["counts"]:
        scores["metric"] = metric
    if flags["held_out"]:
        scores["held_out"] = True
    cache = _own(CACHE, cells)
    if cache:
        result["caches"].setdefault(_dataset(task), cache)


def _whole(path: Path, result: Result) -> Result:
    """Work out the suite's scores of a run whose rows are all read."""
    for task, scores in result["tasks"].items():
        halved = [metric for metric in (*HALVES, *GENERALISED) if metric in scores]
        missing = [metric for metric in (*HALVES, *GENERALISED) if metric not in scores] if halved else []
        if "metric" not in scores or missing:
            lacking = ", ".join(missing) or "the metric that counts"
            raise DataError(
                f"{shown(path)}: wanted all metrics of a task, got {shown(task)!r:.60} of the run in "
                f"{shown(result['folder'])} without {lacking}: write the file again"
            )
        if halved:
            scores["generalised"] = {name: scores.pop(f"generalised_{name}") for name in HALVES}
    return {**result, **suite_scores(result["tasks"])}


def _wrong(path: Path, line: int, wanted: str, got: str) -> DataError:
    return DataError(
        f"{shown(path)}, line {line}: wanted {wanted}, got {shown(got):.100}: correct it, or write the file again with "
        "cptlite report RUNS --format csv"
    )
