"""One fault of every kind; tests/README.md has them by the hundred."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INJECT = Path(__file__).with_name("inject.py")


@pytest.mark.slow
def test_one_fault_of_every_kind_in_turn() -> None:
    done = subprocess.run([sys.executable, INJECT, "--in-turn", "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    rows = [[cell.strip(" *`") for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    *rows, total = rows[2:]
    assert len(rows) == int(total[2]) >= 17  # 20 where a disk may be mounted and others may read the package
    assert len({command for _, command, *_ in rows}) >= 4
    assert {failed for *_, failed in rows} == {"0"}
