"""``cptlite reproduce``: what is missing is said first, and what is there is carried through to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cptlite.cli import app
from cptlite.errors import UsageError
from cptlite.reproduction import PAPER_METHODS, paper_plan
from cptlite.runs.sweep_plan import expand

QUICK = ("--shots", "1", "--seeds", "1")


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *words])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # whose ~/.cache/clip holds no weights
    return tmp_path


def test_the_plan_is_the_papers_table() -> None:
    plan = paper_plan("plant6", ["kaggle_flower"], "RN50", recipe="released")
    configs = expand(plan, [("plant6", ["kaggle_flower"])], "RN50")
    rows = {(config.method, getattr(config.options, "variant", "")) for config in configs}
    assert len(rows) == 12 and {method for method, _ in rows} == set(PAPER_METHODS)
    assert len(configs) == 11 * 5 * 3 + 1  # zero-shot once
    assert {config.recipe_name for config in configs if config.method == "softcpt"} == {"released"}


@pytest.mark.parametrize(
    ("given", "message"),
    [({"methods": ["taskres"]}, "'taskres' is no method of the paper's table"), ({"recipe": "full"}, "got 'full'")],
)
def test_what_is_not_the_papers_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        paper_plan("plant6", ["kaggle_flower"], "RN50", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("papers", "--suite", "plant6"), "wanted paper or demo to reproduce, got 'papers'"),
        (("paper",), "give --suite general10, plant6 or fashion20"),
        (("demo", "--suite", "plant6"), "the demo has one suite"),
        (("paper", "--suite", "rs8"), "not published"),
        (("paper", "--suite", "general11"), "general11"),
    ],
)
def test_a_wrong_target_is_a_usage_error(here: Path, words: tuple[str, ...], message: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_dry_run_says_what_is_missing_and_what_it_takes(here: Path) -> None:
    words = ("paper", "--suite", "fashion20", "--backbone", "demo", "-m", "coop-mt,zeroshot", *QUICK, "--dry-run")
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "failed   dataset fashion20" in done.stdout and "`cptlite datasets NAME`" in done.stdout
    assert "1 run, 0 done; about " in done.stdout and "2 runs, 0 done, 2 left" in done.stdout
    told = json.loads(call(*words, "--json").stdout)
    assert [len(each["runs"]) for each in told["results"]] == [1, 1]
    assert {bool(each["seconds"]) for each in told["results"]} == {True, False}  # zero-shot is fitted at once
    assert told["caching"]["unknown"] == ["fashion20"]
    assert {each["state"] for each in told["findings"]} >= {"ok", "failed"}
    assert not list(here.iterdir())


@pytest.mark.slow
def test_missing_data_ends_it_before_anything_is_made(here: Path) -> None:
    done = call("paper", "--suite", "fashion20", "--backbone", "demo", "-m", "zeroshot", *QUICK)
    said = "the table cannot be made yet: dataset fashion20: wanted its files under"
    assert done.exit_code == 3 and said in " ".join(done.stderr.split())
    assert not list(here.iterdir())


@pytest.mark.slow
def test_the_demo_goes_whole_and_is_not_done_again(here: Path) -> None:
    words = ("demo", "-m", "zeroshot,coop-mt", *QUICK, "--json")
    done = call(*words)
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert {result["method"] for result in results} == {"zeroshot", "coop-mt"}
    assert all(len(result["tasks"]) == 6 for result in results)
    filed = {path: path.stat().st_mtime_ns for path in here.rglob("results.json")}
    assert len(filed) == 2
    again = call(*words)
    assert json.loads(again.stdout)["results"] == results and "0 left" in again.stderr
    assert filed == {path: path.stat().st_mtime_ns for path in here.rglob("results.json")}
