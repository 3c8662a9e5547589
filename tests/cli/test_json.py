"""``--json`` has one shape, whatever the command: ``{"results": [...]}``, with what holds for all of them beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feature_files import clip_retrieval, make_rows
from typer.main import get_command
from typer.testing import CliRunner

from cptlite.cli import app
from cptlite.doctor import Finding

Words = tuple[str | Path, ...]


def call(command: str, *words: str | Path) -> Any:
    done = CliRunner().invoke(app, [command, *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def commands_with_json() -> set[str]:
    """Names of commands whose --json is a switch; that of bench names a file."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name
        for name, command in commands.items()
        if any(each.name == "json" and getattr(each, "is_flag", False) for each in command.params)
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take the long work out of demo and doctor."""
    from cptlite.demo import DemoReport

    def run_demo(out: Path, *_: Any, **__: Any) -> DemoReport:
        places = {name: out / name for name in ("data", "caches", "runs", "plot", "example")}
        return DemoReport(results=[{"method": "zeroshot"}, {"method": "softcpt"}], **places, seconds={"train": 1.0})

    def examine(*_: Any) -> Iterator[Finding]:
        yield Finding(name="torch", state="ok", found="here")

    monkeypatch.setattr("cptlite.demo.run_demo", run_demo)
    monkeypatch.setattr("cptlite.doctor.examine", examine)


@pytest.mark.slow
def test_every_command_prints_one_shape(caches: Path, tmp_path: Path, small: None) -> None:
    out, leaves, backbone = tmp_path / "runs", caches.parent / "leaves", ("--backbone", "random:demo")
    train = ("--cache-dir", caches, "--out", out, "-d", "leaves", "--shots", "1", "--epochs", "1")
    features = clip_retrieval(tmp_path / "features", make_rows(128))
    imported = ("--name", "trees", "--label-from-path", "--encoder", "some-clip", "--cache-dir", tmp_path / "cache")
    one: dict[str, int] = {"train": 2, "demo": 2, "report": 2, "doctor": 1}
    cases: dict[str, Words] = {
        "cache": ("-d", leaves, *backbone, "--cache-dir", tmp_path / "cache"),
        "caches": ("--cache-dir", caches),
        "datasets": (),
        "demo": ("--out", tmp_path / "demo"),
        "doctor": (),
        "download": ("--list",),
        "import-features": (features, *imported),
        "methods": (),
        "train": ("-m", "softcpt,prototype", *train),
        "report": (out,),
        "reproduce": ("demo", "-m", "coop-mt", "--root", tmp_path, "--out", out, "--dry-run"),
        "sweep": ("-m", "prototype", "--seeds", "1", *train[:-2], "--dry-run"),
    }
    run = out / "leaves/softcpt-epochs1/random-demo/shots1-seed1"
    cases |= {
        "eval": (run, "--cache-dir", caches),
        "export": (run, "--out", tmp_path / "mine.safetensors"),
        "interpret": (run,),
        "predict": (run, leaves, "--device", "cpu"),
    }
    assert set(cases) == commands_with_json()
    for command, words in cases.items():
        printed = call(command, *words)
        assert isinstance(printed, dict) and isinstance(printed["results"], list), command
        assert printed["results"] and all(isinstance(each, dict) for each in printed["results"]), command
        assert list(printed)[-1] == "results", command
        if command in one:
            assert len(printed["results"]) == one[command]
    (alone,) = call("train", "-m", "prototype", *train[:-2])["results"]
    assert alone["method"] == "prototype", "one run has the shape of many"
