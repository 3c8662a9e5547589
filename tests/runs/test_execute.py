"""From a configuration to a finished folder: the same bytes again, options that arrive, plans made ahead, peaks."""

from __future__ import annotations

import json
import pkgutil
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_bench import RunBench, configure, least, results_of

from cptlite.errors import UsageError
from cptlite.methods.table import METHODS
from cptlite.runs import learn, sweep
from cptlite.runs.folders import run_folder
from cptlite.text import fused

STEPPED = [name for name, entry in METHODS.items() if entry.stepped]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What a run learned, as files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_configuration_gives_the_same_bytes(bench: RunBench, method: str) -> None:
    first = bytes_of(bench.train("first", least(method)))
    assert set(first) == {"classifier.safetensors"} | ({"prompts.safetensors"} if method in STEPPED else set())
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)  # nothing is drawn from what is shared by the process
    assert bytes_of(bench.train("again", least(method))) == first
    other = bytes_of(bench.train("other", least(method, seed=2)))
    assert (other == first) == (method == "zeroshot"), "it alone draws nothing"


# Options


@pytest.mark.parametrize(
    ("method", "option", "values", "others"),
    [
        ("zeroshot", "templates", (["a {}."], ["a {}.", "the {}, close up"]), {}),
        ("linear-probe", "C", (0.01, 1.0), {}),
        ("tip-adapter-f", "epochs", (1, 2), {}),
        ("coop-ca", "lr", (0.002, 0.02), {"warmup_epochs": 0}),
        ("coop-mt", "separate", (False, True), {}),
        ("kgcoop", "strength", (4.0, 8.0), {"warmup_epochs": 0}),
        ("plot", "eps", (0.1, 1.0), {}),
        ("softcpt", "variant", ("nata", "csts"), {}),
    ],
)
def test_an_option_reaches_what_is_learned_and_the_record(
    bench: RunBench, method: str, option: str, values: tuple[Any, Any], others: dict[str, Any]
) -> None:
    learned = []
    for value in values:
        folder = bench.train(str(value), least(method, **others, **{option: value}))
        stored = json.loads((folder / "config.json").read_text())["config"]
        assert {option: value, **others}.items() <= stored.items()
        learned.append(bytes_of(folder)["classifier.safetensors"])
    assert learned[0] != learned[1]


def test_a_run_of_a_version_with_fewer_options_is_what_it_was(bench: RunBench) -> None:
    config = configure("coop-ca", recipe="full", epochs=2)
    folder = bench.train("runs", config)

    def lose(name: str) -> None:
        stored = json.loads((folder / "config.json").read_text())
        del stored["config"][name]
        (folder / "config.json").write_text(json.dumps(stored))
        (folder / "results.json").unlink(missing_ok=True)  # it was killed after its training

    lose("linear_backend")
    bench.train("runs", config)
    assert json.loads((folder / "config.json").read_text())["config"]["linear_backend"] == "auto"
    lose("lr_shots")  # without which a rate was that of any number of shots
    with pytest.raises(UsageError, match=r"another configuration \(config.lr_shots 0.0 there, 16.0 asked\)"):
        bench.train("runs", config)


def test_runs_that_differ_in_more_than_rows_are_not_trained_together(bench: RunBench) -> None:
    with pytest.raises(UsageError, match="shots and seed alone: train them one by one"):
        bench.train_together("runs", [least("coop-ca"), least("coop-ca", lr=0.1)])
    assert not (bench.folder / "runs").exists()


# Plans


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("method", STEPPED)
def test_prompts_are_planned_before_the_first_step(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, method: str, num_runs: int
) -> None:
    plans: list[int] = []  # prompts of each
    counts: list[tuple[int, int]] = []  # plans before and after a training
    plan_rows, train = fused.plan_rows, learn.train

    def planned(layout: Any, **more: Any) -> Any:
        plans.append(len(layout))
        return plan_rows(layout, **more)

    def trained(*words: Any, **more: Any) -> None:
        before = len(plans)
        train(*words, **more)
        counts.append((before, len(plans)))

    monkeypatch.setattr(fused, "plan_rows", planned)
    monkeypatch.setattr("cptlite.runs.learn.train", trained)
    # To cocoop an image is what a run is to others: batches of one image, its default, are planned.
    own = {"batch_size": 1} if method == "cocoop" else {}
    configs = [least(method, epochs=2, seed=seed, **own) for seed in range(1, num_runs + 1)]
    bench.train_together("runs", configs)
    first = bool(configs[0].entry.starts_from)
    assert len(counts) == first + (3 if configs[0].separate else 1), "of each task that is learned on its own"
    assert all(0 < before == after for before, after in counts)
    if method == "coop-mt":
        assert plans[0] == 7 * num_runs


# Peaks


@pytest.mark.parametrize("method", ["prototype", "softcpt"])
def test_results_say_the_peak_of_memory_and_of_what(bench: RunBench, method: str) -> None:
    configs = [least(method, seed=seed) for seed in (1, 2)]
    for config, results in zip(configs, bench.train_together("runs", configs), strict=True):
        assert results == results_of(run_folder(bench.folder / "runs", config))
        assert results["peak_mib"] > 10 and results["peak_of"] in ("run", "process")


def test_results_say_so_where_the_system_counts_from_the_start(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cptlite.environment.CLEAR_REFS", tmp_path / "no/clear_refs")
    assert results_of(bench.train("runs", least("prototype")))["peak_of"] == "process"


# Stopped and gone on with


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Stop at a call of a function, counted from 1."""
    original: Callable[..., Any] = pkgutil.resolve_name(name)
    calls = []

    def watched(*words: Any, **more: Any) -> Any:
        calls.append(words)
        if len(calls) == call:
            raise Killed
        return original(*words, **more)

    monkeypatch.setattr(name, watched)


@pytest.mark.parametrize("method", ["coop-ca", "kgcoop"])
@pytest.mark.parametrize("place", ["evaluate", "write_classifier"])
def test_a_run_killed_after_its_training_is_not_trained_again(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, method: str, place: str
) -> None:
    config = configure(method)
    undisturbed = bench.train("undisturbed", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, f"cptlite.runs.execute.{place}", 1)
        bench.train("killed", config)
    folder = run_folder(bench.folder / "killed", config)
    logs = {path: path.read_bytes() for path in folder.rglob("log.jsonl")}
    assert len(logs) == (3 if config.separate else 1)
    told: list[float] = []
    bench.train("killed", config, lambda done, _: told.append(done))
    assert not told, "nothing is learned again"
    assert {path: path.read_bytes() for path in folder.rglob("log.jsonl")} == logs
    assert bytes_of(folder) == bytes_of(undisturbed)
    results = results_of(folder)
    assert results["tasks"] == results_of(undisturbed)["tasks"]
    logged = [json.loads(content.splitlines()[-1])["seconds"] for content in logs.values()]
    assert results["seconds"]["train"] >= sum(logged) > 0, "of the first attempt too"


def test_runs_together_are_gone_on_with_where_one_of_them_is_done(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [configure("coop-mt", seed=seed) for seed in (1, 2)]
    undisturbed = bench.train_together("undisturbed", configs)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "cptlite.runs.learn.write_prompts", 2)
        bench.train_together("killed", configs)
    folders = [run_folder(bench.folder / "killed", config) for config in configs]
    assert [(folder / "prompts.safetensors").exists() for folder in folders] == [True, False]
    first = (folders[0] / "prompts.safetensors").stat().st_mtime_ns
    told: list[float] = []
    results = bench.train_together("killed", configs, lambda done, _: told.append(done))
    assert told == [4, 5, 6], "of six epochs three were done"
    assert (folders[0] / "prompts.safetensors").stat().st_mtime_ns == first
    assert [each["tasks"] for each in results] == [each["tasks"] for each in undisturbed]


def test_finished_runs_are_returned_as_they_are_among_others(bench: RunBench) -> None:
    configs = [least("coop-mt", seed=seed) for seed in (1, 2, 3)]
    done = bench.train("runs", configs[1])
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    results = bench.train_together("runs", configs)
    assert [each["seed"] for each in results] == [1, 2, 3]
    assert results[1] == results_of(done)
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before


@pytest.mark.parametrize("lock", [True, False])
def test_a_sweep_takes_locks_or_none(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: bool) -> None:
    seen = []
    monkeypatch.setattr(sweep, "execute_runs", lambda configs, *_, **options: seen.append(options["lock"]) or [{}])
    sweep.run_all([least("prototype")], cache_dir=caches, out=tmp_path, lock=lock)
    assert seen == [lock]
