"""``cptlite sweep`` as processes, to be met at work and killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LONG", "MARK", "PATIENCE", "cleared", "found_when", "run_at_work", "start", "start_here"]

# Three runs, long enough to be met at work.
LONG = ("--methods=coop-mt", "--shots=1", "--seeds=1-3", "--set=epochs=120", "--set=batch-size=4")
PATIENCE = 150.0  # seconds, for what takes a few where nothing else runs
MARK = "CPTLITE_TEST_MARK"


def start_here(mark: Path, *words: str | Path) -> subprocess.Popen[str]:
    """Start a module of Python with its words, marked so that `cleared` finds it and what it starts."""
    command = [sys.executable, "-m", *map(str, words)]
    # Ray would otherwise ask to be told of, and write to, the network and the home folder.
    own = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", MARK: str(mark)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=pipe, stderr=pipe, text=True)


def start(caches: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """Start a sweep of `LONG`."""
    return start_here(out, "cptlite", "sweep", *LONG, "--cache-dir", caches, "--out", out, *words)


def found_when(process: subprocess.Popen[str], look: Callable[[], object]) -> object:
    """Look again and again until something is found, while a process is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def run_at_work(process: subprocess.Popen[str], out: Path) -> tuple[Path, int]:
    """Find a run that is past its first steps, and the process that holds it."""

    def look() -> tuple[Path, int] | None:
        for log in out.rglob("log.jsonl"):
            lock = log.with_name(".run.lock")
            with suppress(FileNotFoundError):  # it ended between two looks
                words = lock.read_text().split()
                if len(words) > 1 and not log.with_name("results.json").exists():
                    return log.parent, int(words[1])
        return None

    found = found_when(process, look)
    assert isinstance(found, tuple)
    return found


@contextmanager
def cleared(mark: Path) -> Iterator[None]:
    """See to it that no process is left of those that were started in the block."""
    try:
        yield
        deadline = time.monotonic() + PATIENCE
        while (left := _marked(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, [Path(f"/proc/{number}/cmdline").read_text() for number in left]
    finally:
        for number in _marked(mark):
            with suppress(ProcessLookupError):
                os.kill(number, 9)


def _marked(mark: Path) -> list[int]:
    """Processes that were started with a mark, and have not ended: what ended says nothing of its environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found
