"""What a shell is told while a command is typed, and lists with commas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cptlite.cli.options import split_at_commas
from cptlite.cli.train_options import whole_numbers
from cptlite.errors import UsageError
from cptlite.shots import ALL_SHOTS

COMPLETE = """
import sys
sys.argv = ["cptlite"]
from cptlite.cli import app
try:
    app(prog_name="cptlite")
finally:
    loaded = [name for name in ("torch", "clip", "h5py", "sklearn") if name in sys.modules]
    assert not loaded, loaded
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train --method coop", {"coop-mt", "coop-ca", "coop-cs"}),
        ("train -m softcpt,coop-m", {"softcpt,coop-mt"}),
        ("train -d demo_d", {"demo_digits"}),
        ("cache --dataset dtd,gen", {"dtd,general10"}),
        ("datasets fg", {"fgvc", "fgvc_aircraft"}),
    ],
)
def test_names_are_completed_without_loading_torch(typed: str, offered: set[str]) -> None:
    words = f"cptlite {typed}"
    told = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_CPTLITE_COMPLETE": "complete_bash"}
    run = [sys.executable, "-c", COMPLETE]
    done = subprocess.run(run, env={**os.environ, **told}, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == offered, done.stderr
    assert "AssertionError" not in done.stderr


def test_lists_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_numbers("shots", ["1,4", "16"]) == [1, 4, 16]
    assert whole_numbers("shots", ["2,all"]) == [2, ALL_SHOTS]
    with pytest.raises(UsageError, match="--seed: wanted whole numbers, several"):
        whole_numbers("seed", ["all"])
    for bad in ("1,,4", "four", "1.5", ""):
        with pytest.raises(UsageError, match="--shots: wanted whole numbers"):
            whole_numbers("shots", [bad])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert split_at_commas(["dtd, fgvc", "a,b", "pets"]) == ["dtd", "fgvc", "a,b", "pets"]
    every = [f"method-{number}" for number in range(100)]
    assert split_at_commas([",".join(every)]) == every, "a list that is too long for a file's name"
