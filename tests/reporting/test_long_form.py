"""The long CSV says all that tables need, and what is read from it is checked like a run's own file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_cases import EVERY, base, fold, of_task, run, whole

from cptlite.errors import DataError
from cptlite.reporting import (
    group_results,
    load_results,
    long_form,
    markdown_table,
    method_task_table,
    summary_table,
)
from cptlite.reporting.checks import Result
from cptlite.reporting.long_form import COLUMNS, MOST_COLUMNS, read_cell

REPOSITORY = Path(__file__).parents[2]

CACHES = {
    "leaf": {"dataset": "leaf", "views": 8, "flip": True, "preprocess": '{"resize": 64}', "split_sha256": "a" * 64},
    "coin": {"dataset": "coin", "views": 1, "flip": True, "preprocess": '{"resize": 64}', "split_sha256": "b" * 64},
}
STEERING = 'a,"b"\n\x1b[31m=1+1 \udc80'


def kept(tmp_path: Path, results: list[Any]) -> list[Result]:
    file = tmp_path / "kept.csv"
    file.write_text(long_form(results), encoding="utf-8")
    return load_results([file])


def tables(results: list[Any]) -> list[str]:
    """Every table of a report, as text."""
    return [
        markdown_table(table)
        for title, group in group_results(results).items()
        for table in (summary_table(group, title), method_task_table(group, 4, title))
    ]


def rows_of(results: list[Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(long_form(results), newline="")))


def edited(results: list[Any], tmp_path: Path, **cells: str) -> Path:
    """A file whose first row has other cells."""
    first, *others = rows_of(results)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows([first | cells, *others])
    file = tmp_path / "edited.csv"
    file.write_text(text.getvalue(), encoding="utf-8")
    return file


def test_tables_of_the_file_are_those_of_the_runs(tmp_path: Path) -> None:
    others = [whole(3, lr=0.5), whole(3) | {"shots": "all"}, base(0.7, 3, context_length=4), fold("coin", seed=2)]
    results = [*EVERY, *others]
    assert tables(kept(tmp_path, results)) == tables(results)


def test_what_a_run_was_comes_back(tmp_path: Path) -> None:
    one = whole(7, context_init="a photo", method="kgcoop") | {"caches": CACHES, "folder": "runs/one"}
    (result,) = kept(tmp_path, [one])
    assert result["config"] == one["config"]
    assert result["caches"] == CACHES
    assert result["tasks"] == one["tasks"]
    assert (result["suite_score"], result["folder"]) == (one["suite_score"], "runs/one")
    assert result["seconds"] == {"total": 1.0} and result["parameters"] == 8


def test_a_row_is_one_run_task_and_metric() -> None:
    rows = rows_of([whole() | {"caches": CACHES}])
    assert [(row["task"], row["metric"], row["counts"]) for row in rows] == [
        (task, metric, counts)
        for task in ("leaf", "coin", "shell")
        for metric, counts in (("acc1", "true"), ("mean_per_class_recall", "false"))
    ]
    assert (rows[0]["cache.views"], rows[2]["cache.views"], rows[4]["cache.views"]) == ("8", "1", "")
    assert float(rows[0]["value"]) == 0.2 and rows[0]["config.lr"] == "0.002"


def test_rows_left_out_leave_a_table_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "fewer.csv"
    lines = long_form([whole(), whole(2)]).splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ",shell," not in line))
    assert [result["suite_score"] for result in load_results([file])] == pytest.approx([0.3, 0.3])


@given(st.text(max_size=30), st.text(max_size=30), st.one_of(st.none(), st.booleans(), st.floats(0, 9), st.text()))
def test_any_words_come_back_and_none_can_steer(task: str, suite: str, value: Any) -> None:
    if not task or not suite:
        return
    result = run({task: of_task(0.5)}) | {"suite": suite, "config": {suite: 1, "odd": value, "list": [suite, 1]}}
    text = long_form([result])
    assert all(line.isprintable() for line in text.split("\n"))
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    (row,) = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row["metric"] == "acc1"]
    assert read_cell(row["task"]) == task and read_cell(row["suite"]) == suite
    assert read_cell(row["config.odd"]) == value and read_cell(row["config.list"]) == [suite, 1]


def test_steering_words_come_back_from_a_file(tmp_path: Path) -> None:
    config = {STEERING: 1, "5": 2, "": 3, "lr": 4, "shots": 4, "seed": 1}
    odd = run({STEERING: of_task(0.5)}) | {"folder": STEERING, "suite": "007", "config": config}
    (result,) = kept(tmp_path, [odd])
    assert result["config"] == config
    assert list(result["tasks"]) == [STEERING] and result["folder"] == STEERING and result["suite"] == "007"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"value": "1.5"}, "line 2: wanted acc1 from 0 to 1, got '1.5'"),
        ({"value": "NaN"}, "acc1 from 0 to 1"),
        ({"value": "1e999"}, "acc1 from 0 to 1"),
        ({"value": "true"}, "acc1 from 0 to 1"),
        ({"metric": "luck"}, "a metric of acc1"),
        ({"metric": "mean_per_class_recall"}, "one mean_per_class_recall of task 'leaf' in a run, got another"),
        ({"metric": "base"}, "without new, harmonic"),
        ({"task": ""}, "the name of a task"),
        ({"task": "5"}, "the name of a task"),
        ({"counts": "false"}, "without the metric that counts"),
        ({"counts": "maybe"}, "true or false as counts"),
        ({"rows": "-1"}, "a whole number as rows"),
        ({"rows": "9" * 5000}, "a whole number as rows"),
        ({"shots": "some"}, "a whole number as shots, got 'some'"),
        ({"shots": ""}, "a whole number as shots, got None"),
        ({"seed": "-1"}, "a whole number as seed, got -1"),
        ({"seed": "9", "folder": "one"}, "line 3: wanted one configuration, shots and seed of the run in one"),
        ({"shots": "[" * 100_000}, "a whole number as shots, got '[["),
        ({"suite": "12"}, "a text as suite, got 12"),
        ({"folder": "12"}, "a text as folder"),
        ({"seconds": "-3"}, "seconds of total, got -3"),
        ({"parameters": "many"}, "a whole number as parameters, got 'many'"),
    ],
)
def test_what_no_run_can_have_is_refused(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    results = [whole() | {"folder": "one"}]
    with pytest.raises(DataError, match=r"edited\.csv.*") as caught:
        load_results([edited(results, tmp_path, **cells)])
    assert message in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it lacks suite, method"),
        ("task,metric,value\n", "it lacks suite"),
        (",".join((*COLUMNS, "colour")) + "\n", "it has the columns"),
        (",".join((*COLUMNS, "task")) + "\n", "it has the columns"),
        (",".join((*COLUMNS, *(f"config.{n}" for n in range(MOST_COLUMNS)))) + "\n", "it has the columns"),
        (",".join(COLUMNS) + "\n", "holds no results"),
        (",".join(COLUMNS) + "\nmine,coop\n", f"line 2: wanted {len(COLUMNS)} cells, got 2"),
        (",".join(COLUMNS) + '\n"mine\n', "a row of CSV"),
        (",".join(COLUMNS) + "\n" + "x" * 200_000 + "\n", "a row of CSV"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "other.csv"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        load_results([file])
    assert message in str(caught.value) and "other.csv" in str(caught.value)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    with file.open("wb") as sparse:
        sparse.truncate(2**28 + 1)
    with pytest.raises(DataError, match="at most 256 MiB"):
        load_results([file])


def test_readmes_demo_table_is_that_of_the_kept_figures() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    ((title, results),) = group_results(load_results([REPOSITORY / "bench/results/demo.csv"])).items()
    table = markdown_table(summary_table(results, title))
    assert readme.partition("<!-- demo-table -->\n")[2].startswith(table), (
        "put what cptlite report bench/results/demo.csv --format markdown prints into README.md"
    )


def test_the_kept_figures_are_of_the_demos_own_plan() -> None:
    from cptlite.demo import DemoPlan

    plan = DemoPlan()
    results = load_results([REPOSITORY / "bench/results/demo.csv"])
    found = {(each["method"], each["recipe"], each["shots"], each["seed"]) for each in results}
    recipes = {(method, "paper" if method == "linear-probe" else plan.recipe) for method in plan.methods}
    wanted = {(*each, shots, seed) for each in recipes for shots in plan.shots for seed in plan.seeds}
    wanted |= {
        (method, "paper", shots, seed) for method in plan.paper_too for shots in plan.shots for seed in plan.seeds
    }
    assert found - {each for each in found if each[0] == "zeroshot"} == wanted
    assert len(results) == len(wanted) + 1
