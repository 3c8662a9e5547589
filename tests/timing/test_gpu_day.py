"""What a GPU has to show: every part runs whole on a processor, and where it can on tensors that claim a GPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_day
import pytest
import torch
from gpu_parts.setting import CASES, Part, Setting
from pretended_cuda import DEVICE, Pretended, moved

from cptlite.backbones import Backbone, load_backbone
from cptlite.methods.table import METHODS

SMALL = ["--device", "cpu", "--small"]
# Beside these the compiler, the profiler or another process is at work, where nothing is pretended.
PRETENDED = sorted(set(gpu_day.PARTS) - {"attention", "profile", "tests"})


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    found = json.loads((folder / f"gpu-{name}.json").read_text(encoding="utf-8"))
    assert (found["part"], found["device"], found["small"]) == (name, "cpu", True)
    assert {"torch", "commit"} <= found["machine"].keys()
    return found["rows"]


@pytest.fixture(scope="module")
def demo() -> Backbone:
    return load_backbone("random:demo", device="cpu", linear_backend="torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu_day.PARTS)
def test_every_part_runs_whole_on_a_processor(name: str, tmp_path: Path) -> None:
    assert gpu_day.main([*SMALL, "--only", name, "--results", str(tmp_path)]) == 0
    rows = rows_of(tmp_path, name)
    assert rows
    assert not [row for row in rows if row.get("error") or row.get("within") is False]
    for row in rows:
        assert row.get("difference", 0) < 0.02  # FlexAttention in bf16 is the furthest
        assert row.get("apart", 0) == 0


def test_every_method_and_variant_is_among_those_recorded_and_compared() -> None:
    stepped = {name for name, entry in METHODS.items() if entry.stepped}
    assert {name for name, _ in CASES} == stepped
    assert {options["variant"] for name, options in CASES if name == "softcpt"} == set(METHODS["softcpt"].variants)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETENDED)
def test_parts_on_tensors_that_claim_a_gpu(
    demo: Backbone, cuda: Pretended, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, *, device: str, **_: Any) -> Backbone:
        assert name == demo.name
        return demo if device == "cpu" else moved(demo)

    monkeypatch.setattr("gpu_parts.setting.find_device", lambda _: DEVICE)
    monkeypatch.setattr("gpu_parts.setting.load_backbone", load)
    monkeypatch.setattr("cptlite.timing.bench.load_backbone", load)
    monkeypatch.setattr("cptlite.timing.train.STEPS_ON_GPU", 2)
    rows = list(gpu_day.PARTS[name].run(Setting(device="cuda", small=True)))
    assert rows
    assert all(row.get("apart", 0) < 0.01 and row.get("difference", 0) < 1e-5 for row in rows)


def test_what_is_done_is_not_run_again_and_the_rest_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(command: list[str], timeout: float) -> Any:
        name = command[command.index("--only") + 1]
        ran.append(name)
        if name == "slow":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0 if name == "short" else 1)

    parts = {name: Part(shows=name, minutes=1, run=lambda setting: [{"number": 1}]) for name in ("done", "short")}
    parts |= {name: Part(shows=name, minutes=1, run=lambda setting: []) for name in ("slow", "failing")}
    parts["long"] = Part(shows="long", minutes=60, run=lambda setting: [])
    monkeypatch.setattr(gpu_day, "PARTS", parts)
    apart = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(gpu_day, "subprocess", apart)
    where = [*SMALL, "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert gpu_day.main([*where, "--only", "done"]) == 0
    assert rows_of(tmp_path / "out", "done") == [{"number": 1}]
    assert gpu_day.main(where) == 1
    assert ran == ["short", "slow", "failing"]
    assert capsys.readouterr().out.endswith("left: slow, failing, long\n")
    assert gpu_day.main([*where, "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["done", "1", "1", "1", "60"]


def test_a_file_of_another_device_or_damaged_does_not_count(tmp_path: Path) -> None:
    path, small = tmp_path / "gpu-graphs.json", Setting(device="cpu", small=True)
    for content, done in {
        '{"device": "cpu", "small": true}': True,
        '{"device": "cuda", "small": true}': False,
        '{"device": "cpu", "small": false}': False,
        "[]": False,
        "{": False,
    }.items():
        path.write_text(content, encoding="utf-8")
        assert gpu_day._is_done(tmp_path, "graphs", small) is done


def test_each_call_is_under_ten_minutes() -> None:
    assert all(part.minutes < 9.5 for part in gpu_day.PARTS.values())
    assert torch.cuda.is_available() or Setting(device="auto").place.type == "cpu"
