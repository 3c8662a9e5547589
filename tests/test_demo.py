"""The demo from drawings to picture, with one quick method."""

from __future__ import annotations

from pathlib import Path

import pytest

from cptlite.demo import DemoPlan, run_demo
from cptlite.errors import UsageError


def test_demo_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    stages: dict[str, int] = {}

    def count(stage: str, done: int, total: int) -> None:
        stages[stage] = stages.get(stage, 0) + 1

    plan = DemoPlan(methods=("prototype",), shots=(1, 16), seeds=(1, 2), jobs=1)
    report = run_demo(tmp_path, plan, on_progress=count)
    assert len(report.results) == 5  # two shots, two seeds, and zero-shot once
    assert {len(result["tasks"]) for result in report.results} == {6}
    assert report.plot.read_bytes().startswith(b"\x89PNG")
    assert stages["train"] == 5
    scores = {(result["method"], result["shots"]): result["suite_score"] for result in report.results}
    assert 0.2 < scores["zeroshot", 1] < 0.9
    assert scores["prototype", 16] > scores["prototype", 1]
    before = {path: path.stat().st_mtime_ns for path in report.runs.rglob("results.json")}
    again = run_demo(tmp_path, plan)
    assert again.results == report.results
    assert before == {path: path.stat().st_mtime_ns for path in report.runs.rglob("results.json")}


def test_what_is_refused_costs_no_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'slow'"):
        run_demo(tmp_path / "demo", DemoPlan(settings={"recipe": "slow"}))
    assert not (tmp_path / "demo").exists()
