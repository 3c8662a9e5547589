"""``cptlite extend`` through the command line, and ``cptlite predict`` of what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_bench import RunBench, least
from typer.testing import CliRunner, Result

import cptlite
from cptlite.backbones import Backbone
from cptlite.cli import app


@pytest.fixture(scope="module")
def runs(backbone: Backbone, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bench = RunBench(backbone, caches, tmp_path_factory.mktemp("runs"))
    return {method: bench.train("runs", least(method)) for method in ("softcpt", "cocoop", "plot", "tip-adapter")}


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("method", ["softcpt", "cocoop", "plot"])
def test_an_extended_classifier_predicts_images(
    runs: dict[str, Path], caches: Path, tmp_path: Path, method: str
) -> None:
    before = {path: path.read_bytes() for path in runs[method].rglob("*") if path.is_file()}
    out = tmp_path / "new/more.safetensors"
    done = call("extend", runs[method], "--task", "leaves", "--classes", "fir,larch", "--out", out)
    assert done.exit_code == 0, done.output
    assert "classes  coins 2, leaves 5, shells 2" in done.stderr and f"written: {out}" in done.stderr
    assert before == {path: path.read_bytes() for path in runs[method].rglob("*") if path.is_file()}
    words = (caches.parent / "leaves", "--task", "leaves", "--top", "5", "--device", "cpu", "--json")
    found, own = (call("predict", each, *words) for each in (out, runs[method]))
    assert found.exit_code == 0, found.output
    for entry, other in zip(json.loads(found.stdout)["results"], json.loads(own.stdout)["results"], strict=True):
        ranked = [each["class"] for each in entry["tasks"]["leaves"]]
        assert sorted(ranked) == ["ash", "elm", "fir", "larch", "oak"]
        assert [name for name in ranked if name not in ("fir", "larch")] == [
            each["class"] for each in other["tasks"]["leaves"]
        ]


def test_it_is_read_from_python_too(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "more.safetensors"
    assert call("extend", runs["softcpt"], "-t", "mushroom", "--classes", "cap,stem", "--out", out).exit_code == 0
    stored = cptlite.load_classifier(out)
    assert [task.id for task in stored.tasks] == ["coins", "leaves", "shells", "mushroom"]
    again = call("extend", runs["softcpt"], "-t", "mushroom", "--classes", "cap,stem", "--out", out)
    assert again.exit_code == 2 and "which is there: give another --out, or --force" in again.stderr
    forced = call("extend", runs["softcpt"], "-t", "mushroom", "--classes", "cap", "--out", out, "--force")
    assert forced.exit_code == 0 and cptlite.load_classifier(out).class_names[-1] == "cap"
    asked = call("predict", out, tmp_path, "-t", "mushroom", "--classes", "cap,gills")
    assert asked.exit_code == 2 and "wanted the folder of a run" in asked.stderr


@pytest.mark.parametrize(
    ("method", "words", "code", "message"),
    [
        ("softcpt", [], 2, "wanted names of classes to add"),
        ("softcpt", ["--classes", "fir"], 2, "wanted the one task that --classes are of"),
        ("softcpt", ["--classes", "oak", "-t", "leaves"], 2, "got 'oak', which it has"),
        ("cocoop", ["--classes", "cap", "-t", "mushroom"], 2, "none for a new task 'mushroom'"),
        ("tip-adapter", ["--classes", "fir", "-t", "leaves"], 2, "tip-adapter learns numbers for each class"),
    ],
)
def test_what_cannot_be_added_is_said(
    runs: dict[str, Path], tmp_path: Path, method: str, words: list[str], code: int, message: str
) -> None:
    out = tmp_path / "more.safetensors"
    done = call("extend", runs[method], *words, "--out", out)
    assert done.exit_code == code and message in done.stderr and not out.exists()


def test_the_run_s_own_files_are_not_written(runs: dict[str, Path]) -> None:
    out = runs["softcpt"] / "more.safetensors"
    done = call("extend", runs["softcpt"], "-t", "leaves", "--classes", "fir", "--out", out)
    assert done.exit_code == 2 and "not among the run's own files" in done.stderr and not out.exists()
