"""``cptlite sweep``: plan, runs, failures, and going on after kills."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from same_runs import learned
from typer.testing import CliRunner, Result

from cptlite.cli import app
from cptlite.runs import sweep_run

QUICK = ("--set", "epochs=2", "--set", "batch-size=4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(caches: Path, *words: str | Path) -> Result:
    return CliRunner().invoke(app, ["sweep", *map(str, words), "--cache-dir", str(caches)])


def test_dry_run_shows_the_plan_and_leaves_nothing(here: Path, caches: Path) -> None:
    words = ("--methods", "coop-mt,linear-probe", "--shots", "1,2", "--seeds", "1-3", "--dry-run")
    done = call(caches, *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "  coins+leaves+shells/linear-probe  6 runs, 0 done; fitted at once"
    assert lines[1].startswith("  coins+leaves+shells/coop-mt       6 runs, 0 done; about ")
    assert lines[2].startswith("12 runs, 0 done, 12 left: about ")
    told = json.loads(call(caches, *words, "--json").stdout)["results"]
    assert [len(each["runs"]) for each in told] == [6, 6] and told[1]["seconds"] > 0
    assert not list(here.iterdir())


def test_runs_are_those_of_train_and_are_never_done_again(here: Path, caches: Path) -> None:
    words = ("-m", "coop-mt", "-m", "prototype", "--shots", "1", "--seeds", "1,2", *QUICK)
    done = call(caches, *words, "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert len(results["results"]) == 4 and results["failed"] == []
    assert "Next:" in done.stderr and "plan: runs/sweep-" in done.stderr
    train = f"train --method coop-mt --shots 1 --seed 1,2 --epochs 2 --batch-size 4 --cache-dir {caches} --out alone"
    assert CliRunner().invoke(app, train.split()).exit_code == 0
    alone = learned(here / "alone")
    assert len(alone) == 4 and alone.items() <= learned(here / "runs").items()
    times = {path: path.stat().st_mtime_ns for path in here.glob("runs/**/*") if path.name != "sweep"}
    (plan,) = here.glob("runs/sweep-*.toml")
    again = call(caches, plan)
    assert again.exit_code == 0, again.output
    assert "4 runs, 4 done, 0 left" in again.stderr and "1 shot" in again.stdout
    changed = {path for path, before in times.items() if path.is_file() and path.stat().st_mtime_ns != before}
    assert changed <= {plan}


def test_all_shots_are_a_number_of_shots(here: Path, caches: Path) -> None:
    words = ("--methods", "coop-mt,linear-probe", "--shots", "1,all", "--seeds", "1", *QUICK)
    (_, stepped) = json.loads(call(caches, *words, "--dry-run", "--json").stdout)["results"]
    assert stepped["seconds"] > 0 and [Path(run).name for run in stepped["runs"]] == ["shotsall-seed1", "shots1-seed1"]
    done = call(caches, *words, "--set", "lr=0.01,0.02", "--choose")
    assert done.exit_code == 0, done.output
    assert "shots 1,all; se" in done.stderr and "all shots" in done.stdout
    (plan,) = here.glob("runs/sweep-*.toml")
    assert 'shots = [1, "all"]' in plan.read_text()
    told = json.loads(call(caches, plan, "--choose", "--json").stdout)
    assert {each["shots"] for each in told["choices"]} == {1, "all"}
    train = f"train --method coop-mt --shots all --epochs 2 --batch-size 4 --lr 0.01 --cache-dir {caches} --out alone"
    assert CliRunner().invoke(app, train.split()).exit_code == 0
    assert learned(here / "alone").items() <= learned(here / "runs").items()


def test_flags_override_the_file(here: Path, caches: Path) -> None:
    text = (
        'methods = ["coop-mt"]\nshots = [1, 2]\nseeds = "1-2"\ndatasets = "coins"\n[set]\nlr = 0.1\nepochs = [1, 2]\n'
    )
    Path("plan.toml").write_text(text)
    told = json.loads(call(caches, "plan.toml", "--shots", "1", "--set", "lr=0.2,0.3", "--dry-run", "--json").stdout)
    names = {f"coins/coop-mt-epochs{epochs}-lr{lr}" for epochs in (1, 2) for lr in (0.2, 0.3)}
    assert {each["configuration"] for each in told["results"]} == names
    assert all(len(each["runs"]) == 2 for each in told["results"])
    told = json.loads(call(caches, "plan.toml", "--dataset", "leaves,shells", "--dry-run", "--json").stdout)
    assert {each["configuration"].split("/")[0] for each in told["results"]} == {"leaves+shells"}


@pytest.mark.parametrize("together", ["--together", "--no-together"])
def test_a_run_that_fails_fails_alone(here: Path, caches: Path, together: str) -> None:
    words = ("--methods", "coop-mt", "--shots", "1,999", "--seeds", "1", *QUICK, together)
    done = call(caches, *words, "--json")
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    assert [result["shots"] for result in told["results"]] == [1]
    (failed,) = told["failed"]
    assert failed["run"].endswith("shots999-seed1") and "999" in failed["message"]
    assert f"failed: {failed['run']}\n  {failed['message']}\n  alone: {failed['command']}\n" in done.stderr
    assert "1 of 2 runs came to nothing" in done.stderr
    command = shlex.split(failed["command"])
    alone = CliRunner().invoke(app, command[command.index("train") :])
    assert alone.exit_code == 2 and failed["message"] in alone.stderr
    assert "Next:" in done.stderr


def test_what_nobody_foresaw_ends_one_run(here: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable = sweep_run.run_group

    def run_group(group: list, *more: object) -> list:
        if group[0].seed == 2:
            raise RuntimeError("a bug")
        return real(group, *more)

    monkeypatch.setattr(sweep_run, "run_group", run_group)
    words = ("--methods", "prototype", "--shots", "1", "--seeds", "1-3")
    done = call(caches, *words)
    assert done.exit_code == 1 and "RuntimeError: a bug" in done.stderr
    assert len(list(here.rglob("results.json"))) == 2
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert call(caches, *words).exit_code == 0


def test_together_is_cut_by_memory(here: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real: Callable = sweep_run.run_group
    monkeypatch.setattr(sweep_run, "run_group", lambda group, *more: sizes.append(len(group)) or real(group, *more))
    words = ("--methods", "coop-mt", "--shots", "1", "--seeds", "1-3", *QUICK, "--together")
    assert call(caches, *words, "--out", "one").exit_code == 0
    assert call(caches, *words, "--out", "two", "--memory", "0.001").exit_code == 0  # room for all of these still
    monkeypatch.setattr(sweep_run, "NUMBER_BYTES", 2**30)
    assert call(caches, *words, "--out", "three").exit_code == 0
    assert sizes == [3, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--methods", "coop-mt", "--engine", "slurm"), 2, "unknown engine 'slurm': give one of loky, dask, ray"),
        (("--methods", "coop-mt", "--scheduler", "here"), 2, "loky runs on this machine alone"),
        (("--methods", "coop-mt", "--set", "lr"), 2, "wanted an option and its values"),
        (("--methods", "coop-mt", "--suite", "plant6"), 3, "wanted cached features of"),
        (("--methods", "coop-mt", "--suite", "plant7"), 2, "wanted a known dataset or suite"),
        ((), 2, "wanted methods, got none"),
        (("none.toml",), 2, "check the path"),
    ],
)
def test_what_is_refused_leaves_nothing(
    here: Path, caches: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = call(caches, *words)
    assert done.exit_code == code, done.output
    assert message in done.stderr and not list(here.iterdir())
