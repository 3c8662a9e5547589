"""Runs on new classes and on new tasks in tables: of their own, with what sets them apart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from result_cases import EVERY, TASKS, base, fold
from rich.console import Console
from typer.testing import CliRunner

from cptlite.cli import app
from cptlite.errors import DataError
from cptlite.reporting import (
    draw_shots_plot,
    group_results,
    load_results,
    method_task_table,
    render_table,
    run_table,
    summarize,
    summary_table,
)
from cptlite.reporting.folds import join_folds


def drawn(table: Any) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    console.print(render_table(table))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_was_learned_from_other_classes_or_tasks_never_meets_in_a_table() -> None:
    groups = group_results(EVERY)
    assert list(groups) == [
        "mine, 3 tasks, backbone demo",
        "mine, 3 tasks, base to new classes, backbone demo",
        "mine, unseen: 3 tasks, each left out in turn, backbone demo",
        "mine, unseen: 2 tasks, backbone demo",
    ]
    assert [len(group) for group in groups.values()] == [2, 2, 1, 1]
    for group in groups.values():
        assert len(summarize(group)) == 1


def test_base_new_and_their_mean_are_columns() -> None:
    table = summary_table([base(), base(0.4, 2), base(0.6, method="coop-ca")])
    assert table.columns[:4] == ("method", "4 shots: base", "4 shots: new", "4 shots: H")
    assert table.rows[0][:4] == ("coop-mt", "80.0 ± 0.0", "30.0 ± 14.1", "42.7 ± 15.1")
    assert table.rows[1][:4] == ("coop-ca", "80.0", "60.0", "68.6")
    assert table.best == {(1, 2), (1, 3)}
    assert method_task_table([base()], 4).rows[0] == ("leaf", "32.0")


def test_a_run_from_base_to_new_shows_both_ways_of_scoring() -> None:
    table = run_table(base())
    assert table.rows[0] == ("leaf", "80.0", "20.0", "32.0", "40.0", "10.0", "10.0", "10")
    assert table.rows[-1] == ("suite score", "80.0", "20.0", "32.0", "40.0", "10.0", "16.0", "30")
    assert table.best == {(3, 3)}
    assert "H, all classes" in drawn(table)


def test_a_run_with_tasks_held_out_shows_them_apart() -> None:
    table = run_table(fold("leaf"))
    assert [row[:2] for row in table.rows] == [
        ("coin", "40.0"),
        ("shell", "90.0"),
        ("tasks learned from", "65.0"),
        ("leaf (held out)", "20.0"),
        ("tasks held out", "20.0"),
    ]
    assert [row[-1] for row in table.rows] == ["10", "10", "20", "10", "10"]
    every = run_table(fold(*TASKS, method="zeroshot"))
    assert [row[0] for row in every.rows] == [*(f"{task} (held out)" for task in TASKS), "tasks held out"]


def test_each_left_out_in_turn_is_one_result() -> None:
    results = [fold(task, seed=seed, plus=0.1 * (seed - 1)) for task in TASKS for seed in (1, 2)]
    first, second = join_folds(results)
    assert {task: scores["acc1"] for task, scores in first["tasks"].items()} == TASKS
    assert first["suite_score"] == pytest.approx(0.5)
    assert first["seen_score"] == pytest.approx((0.65 + 0.55 + 0.3) / 3)
    assert second["suite_score"] == pytest.approx(0.6) and second["seconds"] == {"total": 3.0}
    ((title, group),) = group_results(results).items()
    table = summary_table(group, title)
    assert table.columns == ("method", "4 shots: unseen", "4 shots: seen", "learned", "time")
    assert table.rows == (("coop-mt", "55.0 ± 7.1", "55.0 ± 7.1", "8", "3.00 s"),)
    assert [row for row in method_task_table(group, 4).rows] == [("leaf", "25.0"), ("coin", "45.0"), ("shell", "95.0")]


def test_configurations_stay_apart_and_those_with_fewer_tasks_too() -> None:
    results = [fold(task, lr=lr) for task in TASKS for lr in (0.002, 0.1)] + [fold("leaf", method="softcpt")]
    groups = group_results(results)
    assert [[row[:2] for row in summary_table(group).rows] for group in groups.values()] == [
        [("coop-mt", "lr 0.002"), ("coop-mt", "lr 0.1")],
        [("softcpt-nata", "20.0")],
    ]


def test_a_task_held_out_twice_is_said() -> None:
    with pytest.raises(DataError, match="two runs of coop-mt in one configuration that hold out 'leaf'"):
        group_results([fold("leaf"), fold("coin"), fold("leaf")])


@pytest.mark.parametrize("result", [base(), fold("leaf"), fold("leaf", "coin")])
def test_scores_that_are_none_are_refused(result: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(result))
    assert len(load_results([file])) == 1
    damaged = json.loads(json.dumps(result))
    if "base" in result:
        damaged["tasks"]["coin"]["new"] = 7
    else:
        damaged["seen_score"] = "much"
    file.write_text(json.dumps(damaged))
    with pytest.raises(DataError, match="from 0 to 1, got"):
        load_results([file])


@pytest.mark.slow
def test_the_report_has_a_table_and_a_picture_for_each(tmp_path: Path) -> None:
    for number, result in enumerate(EVERY):
        folder = tmp_path / f"runs/{number}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(result))
    words = ["report", str(tmp_path / "runs"), "--tasks", "--out", str(tmp_path / "drawn")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 shots: base" in done.stdout and "4 shots: unseen" in done.stdout
    kinds = [path.name.split("-")[0] for path in (tmp_path / "drawn").iterdir()]
    assert sorted(kinds) == ["shots"] * 4 + ["tasks"] * 4
    lines = json.loads(CliRunner().invoke(app, [*words[:2], "--json"]).stdout)["results"]
    (halves,) = [line for line in lines if line["group"] == "mine, 3 tasks, base to new classes, backbone demo"]
    assert set(halves["parts"]) == {"base", "new", "H"} and halves["parts"]["H"] == [halves["mean"], halves["std"]]
    with pytest.raises(Exception, match="one suite and backbone, got 4"):
        draw_shots_plot(EVERY, tmp_path / "all.png")
