"""``scripts/kill_sweep.py``, small: it kills what it says, and sees what differs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kill_sweep import main
from same_runs import differences
from sweep_processes import MARK, cleared

SMALL = ("--", "--methods=coop-mt", "--shots=1", "--seeds=1-9", "--set=epochs=40", "--set=batch-size=4")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs SIGKILL")
def test_killed_three_times_the_report_is_the_same(
    caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(MARK, str(work))
    with cleared(work):
        code = main([f"--cache-dir={caches}", f"--work={work}", *SMALL])
    said = capsys.readouterr().out
    assert code == 0, said
    assert re.findall(r"killed at \d+ runs: (the command|a worker)", said) == ["the command", "a worker", "the command"]
    assert "undisturbed: 9 runs" in said and "the same command at last: 9 runs" in said
    (run, *_) = (work / "killed").rglob("predictions.csv")
    run.write_bytes(run.read_bytes() + b" ")
    assert differences(work / "whole", work / "killed") == [run.relative_to(work / "killed").as_posix()]
