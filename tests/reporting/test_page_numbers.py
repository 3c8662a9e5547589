"""Every number of the HTML page, found again in ``results.json`` and ``predictions.csv`` by where it leads."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_runs import CLASSES, SUITES, Cell, Table, file_run, file_suite, page_of, runs_by_id, tables_under

pytestmark = pytest.mark.usefixtures("one_bundle")

PARTS = {"score": "suite_score", "H": "suite_score", "unseen": "suite_score", "seen": "seen_score"}


def mean_and_std(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> str:
    """Mean over runs of one seed, then over seeds, as a page writes it."""
    seeds: dict[int, list[float]] = {}
    for run in runs:
        seeds.setdefault(run["seed"], []).append(value(run))
    means = [100 * statistics.fmean(each) for each in seeds.values()]
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.1f}{spread}"


def score(run: dict[str, Any], task: str) -> float:
    scores = run["tasks"][task]
    return scores["harmonic"] if "harmonic" in scores else scores[scores["metric"]]


@pytest.mark.parametrize("name", SUITES)
def test_every_number_is_found_again_in_results(name: str, tmp_path: Path) -> None:
    SUITES[name](tmp_path / "runs")
    _, read = page_of(tmp_path / "runs")
    runs = runs_by_id(read, tmp_path)
    files = list((tmp_path / "runs").rglob("results.json"))
    assert sum(map(len, runs.values())) == len(files)  # none is left out, none twice
    titles = {each for each in read.sections if each not in ("Score by task", "Runs", "Features")}
    (title,) = titles
    (summary,) = tables_under(read, title)
    behind = {each: [run for run, _ in pairs] for each, pairs in runs.items()}
    check_summary(summary, behind)
    for table in tables_under(read, "Score by task"):
        check_tasks(table, behind)
    for pairs in runs.values():
        for run, cells in pairs:
            check_run(run, cells)


def check_summary(table: Table, behind: dict[str, list[dict[str, Any]]]) -> None:
    filled = 0
    for _, row in table.rows:
        line = row[0].link.removeprefix("#")
        own = [run for name, runs in behind.items() if name.startswith(f"{line}-s") for run in runs]
        for heading, cell in zip(table.columns, row, strict=True):
            shots, _, part = heading.partition(": ")
            if "shot" in shots and cell.text:
                found = behind[cell.link.removeprefix("#")]
                assert {str(run["shots"]) for run in found} == {shots.split()[0]} or shots == "no shots"
                key = PARTS.get(part or "score", part)
                assert cell.text == mean_and_std(found, lambda run, key=key: run[key])  # type: ignore[misc]
                assert cell.value == cell.text.split()[0]
                filled += 1
            elif heading == "learned":
                assert cell.text == f"{max(run['parameters'] for run in own):,}"
        assert own
    assert filled >= len(behind)


def check_tasks(table: Table, behind: dict[str, list[dict[str, Any]]]) -> None:
    for _, (task, *cells) in table.rows:
        for cell in cells:
            found = behind[cell.link.removeprefix("#")]
            some = [run for run in found if run["tasks"][task.text].get("held_out")] or found
            assert cell.text == mean_and_std(some, lambda run, task=task: score(run, task.text)).split()[0]  # type: ignore[misc]


def check_run(run: dict[str, Any], cells: dict[str, Cell]) -> None:
    assert cells["shots"].text in (str(run["shots"]), "none") and cells["seed"].text == str(run["seed"])
    assert (cells["shots"].text == "none") == (run["method"] == "zeroshot")
    for heading, cell in cells.items():
        part = {"suite score": "score"}.get(heading, heading)
        if part in (*PARTS, "base", "new"):
            assert cell.text == f"{100 * run[PARTS.get(part, part)]:.1f}"
        elif (task := heading.removesuffix(" (H)")) in CLASSES:
            assert cell.text == f"{100 * score(run, task):.1f}"
    assert cells["learned"].text == f"{run['parameters']:,}" and cells["peak MiB"].text == f"{run['peak_mib']:,.0f}"
    assert float(cells["time"].value) == pytest.approx(sum(run["seconds"].values()), rel=0.06, abs=0.006)


def test_charts_show_the_figures_of_the_tables(tmp_path: Path) -> None:
    file_suite(tmp_path / "runs")
    _, read = page_of(tmp_path / "runs")
    summary = read.tables[0]
    shown = [cell.text for _, row in summary.rows for cell in row if " shot" in summary.columns[row.index(cell)]]
    whole, *others = (chart for chart in read.charts["charts"] if chart["spec"] != "matrix")
    told = [point["told"].split(": ")[-1].split(" %")[0] for rows in whole["data"].values() for point in rows]
    assert sorted(told) == sorted(filter(None, shown))
    for point in whole["data"]["points"]:
        mean, _, std = point["told"].split(": ")[-1].split(" %")[0].partition(" ± ")
        assert point["y"] == pytest.approx(float(mean), abs=0.051)
        assert point["high"] - point["y"] == pytest.approx(float(std or 0), abs=0.051)
        assert point["y"] - point["low"] == pytest.approx(float(std or 0), abs=0.051)
    assert len(others) == len(CLASSES)


def test_confusion_is_counted_from_predictions_of_all_seeds(tmp_path: Path) -> None:
    folders = [file_run(tmp_path / "runs", seed=seed) for seed in (1, 2)]
    file_run(tmp_path / "runs", shots=1)
    _, read = page_of(tmp_path / "runs")
    wanted: dict[str, Counter[tuple[str, str]]] = {}
    for folder in folders:
        for row in csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()):
            wanted.setdefault(row["task"], Counter())[row["label"], row["predicted"]] += 1
    matrices = [chart["data"] for chart in read.charts["charts"] if chart["spec"] == "matrix"]
    for data, task in zip(matrices, CLASSES, strict=True):
        names, cells = data["names"], data["cells"]
        found = {(names[a], names[b]): n for a, b, n in zip(cells[::3], cells[1::3], cells[2::3], strict=True)}
        assert tuple(names) == CLASSES[task] and found == wanted[task]
        assert data["totals"] == [sum(n for (label, _), n in found.items() if label == name) for name in names]
