"""``cptlite eval`` and ``cptlite train`` on new classes and tasks, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_bench import encode_datasets
from trees import draw_classes
from typer.testing import CliRunner, Result

import cptlite
from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig

QUICK = ("--shots", "2", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture(scope="module")
def caches(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets, and in the same folder others: leaves drawn anew and turned, and what nobody learned."""
    folder = tmp_path_factory.mktemp("shelf")
    encode_datasets(backbone, folder)
    for name, classes in (("results", ["Oak", "ash", "ELM"]), ("bugs", ["ant", "bee"])):
        draw_classes(folder / name, classes, images=6)
        (spec,) = load_catalog().resolve([str(folder / name)])
        encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig())
    return folder / "cache"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def train(caches: Path, out: Path, *words: str) -> Result:
    named = [word for name in ("coins", "leaves", "shells") for word in ("--dataset", name)]
    return call("train", *named, *QUICK, *words, "--cache-dir", caches, "--out", out)


def folders(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.rglob("results.json"))


@pytest.fixture(scope="module")
def trained(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from base to new classes."""
    out = tmp_path_factory.mktemp("runs")
    done = train(caches, out, "--method", "coop-ca", "--classes", "base")
    assert done.exit_code == 0, done.output
    (folder,) = folders(out)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_is_evaluated_on_another_dataset_of_its_classes_beside_its_own_files(
    trained: Path, caches: Path, backbone: Backbone
) -> None:
    before = contents(trained)
    done = call("eval", trained, "--dataset", "results", "--cache-dir", caches, "--json")
    assert done.exit_code == 0, done.output
    (found,), (path,) = json.loads(done.stdout)["results"], list((trained / "eval").iterdir())
    assert path.name == "on-results.json" and f"written: {path}" in done.stderr
    assert json.loads(path.read_text()) == found
    assert contents(trained) == before
    (cache,) = open_caches(caches, backbone, ["results"])
    assert found["tasks"] == cptlite.load_run(trained).evaluate([cache])
    assert found["tasks"]["results"]["classes"] == ["ELM", "Oak", "ash"], "in their own order"
    assert {"base", "new", "harmonic"} <= found["tasks"]["results"].keys()
    assert found["evaluated"]["results"] == cache.fingerprint.of_pooled()
    assert found["run_sha256"] == json.loads(before["results.json"])["sha256"]
    cache.close()


def test_neither_report_nor_train_takes_it_for_a_run(trained: Path, caches: Path) -> None:
    assert call("eval", trained, "--dataset", "results", "--cache-dir", caches).exit_code == 0
    out = trained.parents[3]
    assert folders(out) == [trained]
    assert call("report", out).stdout.count("coop-ca") == 1
    again = train(caches, out, "--method", "coop-ca", "--classes", "base")
    assert again.exit_code == 0 and "already done" in again.stderr
    assert cptlite.load_run(trained).results_["method"] == "coop-ca"


def test_without_a_dataset_the_run_s_own_are_evaluated_again(trained: Path, caches: Path) -> None:
    done = call("eval", trained, "--cache-dir", caches, "--json")
    own = json.loads((trained / "results.json").read_text())
    assert json.loads(done.stdout)["results"][0]["tasks"] == own["tasks"]
    assert (trained / "eval/on-coins+leaves+shells.json").is_file()
    table = call("eval", trained, "--cache-dir", caches).stdout
    assert (
        table.splitlines()[:9]
        == train(caches, trained.parents[3], "--method", "coop-ca", "--classes", "base").stdout.splitlines()[:9]
    )


def test_training_anew_removes_what_the_earlier_run_was_evaluated_on(caches: Path, tmp_path: Path) -> None:
    words = ("--method", "zeroshot")
    named = ("train", "--dataset", "leaves", *words, "--cache-dir", caches, "--out", tmp_path)
    assert call(*named).exit_code == 0
    (folder,) = folders(tmp_path)
    assert call("eval", folder, "--dataset", "results", "--cache-dir", caches).exit_code == 0
    assert call(*named, "--force").exit_code == 0
    assert not (folder / "eval").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--dataset", "bugs"], 2, "got some that"),
        (["--dataset", "dtd"], 3, "wanted cached features of dtd"),
        (["--dataset", "results", "--device", "tpu"], 2, "unknown device 'tpu'"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    trained: Path, caches: Path, words: list[str], code: int, message: str
) -> None:
    done = call("eval", trained, *words, "--cache-dir", caches)
    assert done.exit_code == code and message in done.stderr and done.stderr.count("error:") == 1
    assert not (trained / "eval/on-bugs.json").exists()


def test_a_folder_without_a_run_is_said(tmp_path: Path, caches: Path) -> None:
    done = call("eval", tmp_path, "--cache-dir", caches)
    assert done.exit_code == 3 and "wanted a finished run in" in done.stderr


# Training


@pytest.mark.slow
def test_each_task_is_left_out_in_turn(caches: Path, tmp_path: Path) -> None:
    done = train(
        caches, tmp_path, "--method", "softcpt", "--held-out-task", "all", "--seed", "1", "--seed", "2", "--together"
    )
    assert done.exit_code == 0, done.output
    assert "unseen: 3 tasks, each left out in turn" in done.stdout and "2 shots: unseen" in done.stdout
    found: list[dict[str, Any]] = [json.loads((folder / "results.json").read_text()) for folder in folders(tmp_path)]
    held_out = [(result["config"]["held_out_tasks"], result["seed"]) for result in found]
    assert sorted(held_out) == [([task], seed) for task in ("coins", "leaves", "shells") for seed in (1, 2)]
    again = train(caches, tmp_path, "--method", "softcpt", "--held-out-task", "shells", "--seed", "2", "--json")
    assert "already done" in again.stderr, "one of them is the same run"
    assert json.loads(again.stdout)["results"][0]["tasks"]["shells"]["held_out"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "coop-cs", "--classes", "base"], "coop-cs learns numbers for each class"),
        (
            ["--method", "softcpt", "--variant", "csta", "--classes", "base"],
            "softcpt-csta learns numbers for each class",
        ),
        (["--method", "coop-ca", "--held-out-task", "all"], "coop-ca learns numbers for each task"),
        (["--method", "softcpt", "--variant", "nats", "--held-out-task", "coins"], "softcpt-nats learns numbers for"),
        (["--method", "softcpt", "--held-out-task", "coin"], "unknown task 'coin' to hold out: give one of coins"),
        (["--method", "softcpt", "--classes", "new"], "unknown classes 'new': give one of all, base"),
        (["--method", "softcpt", "--classes", "base", "--held-out-task", "coins"], "give one of the two"),
    ],
)
def test_what_cannot_be_trained_is_said(caches: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = train(caches, tmp_path / "runs", *words)
    assert done.exit_code == 2 and message in done.stderr
    assert not (tmp_path / "runs").exists()


# Splits, mistakes and pictures


def test_validation_rows_are_evaluated_without_a_look_at_test_rows(
    trained: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    def features(self: FeatureCache, split: str, *words: Any, **options: Any) -> Any:
        read.add(split)
        return reader(self, split, *words, **options)

    reader = FeatureCache.features
    monkeypatch.setattr(FeatureCache, "features", features)
    done = call("eval", trained, "--split", "val", "--cache-dir", caches, "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["results"]
    assert read == {"val"} and found["split"] == "val"
    assert json.loads((trained / "eval/val-on-coins+leaves+shells.json").read_text()) == found
    rows = {name: scores["rows"] for name, scores in found["tasks"].items()}
    listed = json.loads(call("caches", "--cache-dir", caches, "--json").stdout)["results"]
    there = {each["dataset"]: each["rows"] for each in listed}
    assert rows == {name: there[name]["val"] for name in rows}
    assert "val images" in call("eval", trained, "--split", "val", "--cache-dir", caches).stdout


def test_tables_pictures_and_predictions_are_written_where_they_are_asked_for(
    trained: Path, caches: Path, tmp_path: Path
) -> None:
    before = contents(trained)
    pictures = ("--confusion", tmp_path / "a/c.png", "--reliability", tmp_path / "r.png")
    words = ("--per-class", *pictures, "--predictions", tmp_path / "p.csv")
    done = call("eval", trained, *words, "--cache-dir", caches)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "p.csv").read_bytes() == before["predictions.csv"], "of the run's own datasets it is the same"
    for path in (tmp_path / "a/c.png", tmp_path / "r.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and f"drawn: {path}" in done.stderr
    own = json.loads(before["results.json"])["tasks"]["leaves"]
    table = done.stdout.partition("Recall by class")[2].partition("Most confused")[0]
    shown = {line.split()[1]: line.split()[3] for line in table.splitlines() if line.startswith("leaves")}
    assert shown == {name: f"{100 * recall:.1f}" for name, recall in zip(own["classes"], own["recall"], strict=True)}
    assert "Most confused" in done.stdout and "expected calibration error (%): coins" in done.stdout
    assert contents(trained) == before


@pytest.mark.parametrize("flag", ["--confusion", "--reliability", "--predictions"])
def test_the_run_s_own_files_are_never_written(trained: Path, caches: Path, flag: str) -> None:
    before = contents(trained)
    done = call("eval", trained, flag, trained / "predictions.csv", "--cache-dir", caches)
    assert done.exit_code == 2 and "not among the run's own files" in done.stderr and contents(trained) == before


def test_an_unknown_split_is_said(trained: Path, caches: Path) -> None:
    done = call("eval", trained, "--split", "train", "--cache-dir", caches)
    assert done.exit_code == 2 and "unknown split 'train': give val or test" in done.stderr
