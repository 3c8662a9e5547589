"""GPUs of a sweep's workers: which are chosen, and what they are told. Their number is pretended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cptlite.cli import app
from cptlite.cli.sweep_given import choose_gpus, spread_gpus
from cptlite.errors import UsageError
from cptlite.process import GPU_VARIABLE
from cptlite.runs import sweep_run


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs, and the environment as it was."""
    monkeypatch.setenv(GPU_VARIABLE, "")  # which is noted, so that what a test sets is taken back
    monkeypatch.delenv(GPU_VARIABLE)

    def count() -> int:
        said = os.environ.get(GPU_VARIABLE)
        return 4 if said is None else len([name for name in said.split(",") if not name.isdigit() or int(name) < 4])

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count() > 0)


@pytest.mark.parametrize(
    ("device", "wanted", "names"),
    [
        ("auto", "", ("0", "1", "2", "3")),
        ("cuda", "", ("0", "1", "2", "3")),
        ("cuda", "1,3", ("1", "3")),
        ("auto", "2-3", ("2", "3")),
        ("cuda:1", "", ()),
        ("cpu", "", ()),
    ],
)
def test_all_that_are_visible_or_wanted(device: str, wanted: str, names: tuple[str, ...]) -> None:
    seen = choose_gpus(wanted, "")
    assert spread_gpus(device, seen) == names
    assert os.environ.get(GPU_VARIABLE) == (",".join(names) if wanted else None)


def test_numbers_count_what_the_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_VARIABLE, "3, GPU-1f2e,0")
    assert spread_gpus("auto", ()) == ("3", "GPU-1f2e", "0")
    assert spread_gpus("auto", choose_gpus("1,2", "")) == ("GPU-1f2e", "0")


@pytest.mark.parametrize(
    ("device", "wanted", "scheduler", "message"),
    [
        ("auto", "0,9", "", "--gpus: wanted 0, 9, got 1 of them for device auto"),
        ("cuda:0", "0", "", "--gpus: wanted 0, got none of them for device cuda:0"),
        ("cpu", "0", "", "for device cpu"),
        ("auto", "0", "tcp://head:8786", "--gpus chooses among those of this machine, got --scheduler tcp://head"),
        ("auto", "first", "", "--gpus: wanted whole numbers"),
    ],
)
def test_what_is_not_there_is_refused(device: str, wanted: str, scheduler: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spread_gpus(device, choose_gpus(wanted, scheduler))


def test_more_than_are_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_VARIABLE, "2")
    with pytest.raises(UsageError, match="wanted GPUs 0, 1, got CUDA_VISIBLE_DEVICES=2, which shows 1: give numbers"):
        choose_gpus("0,1", "")


def test_a_sweep_gives_each_of_them_a_worker(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def carry_out(calls: list, **how: Any) -> list:
        told.update(how)
        return [(place, call()) for place, call in enumerate(calls)]

    monkeypatch.setattr(sweep_run, "carry_out", carry_out)
    monkeypatch.setattr("cptlite.environment.visible_gpus", lambda device: ("1", "3"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a processor computes
    words = ["sweep", "--methods=prototype", "--shots=1", "--seeds=1", "--gpus=1,3"]
    done = CliRunner().invoke(app, [*words, f"--cache-dir={caches}", f"--out={tmp_path / 'runs'}"])
    assert done.exit_code == 0, done.output
    assert told["gpus"] == ("1", "3") and told["jobs"] == 2
    assert "loky, 2 jobs, on GPUs 1, 3" in done.stderr
