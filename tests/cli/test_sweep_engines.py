"""``cptlite sweep`` on Dask and Ray: loky's bytes, also where a worker or the scheduler dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from same_runs import differences, learned
from sweep_processes import PATIENCE, cleared, found_when, run_at_work, start, start_here

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc and SIGKILL")]

ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(not find_spec(package), reason=f"needs {package}"))
    for engine, package in (("loky", "joblib"), ("dask", "distributed"), ("ray", "ray"))
]


@pytest.fixture(scope="module")
def whole(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a sweep that nobody disturbed, in one process."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    ended(start(caches, out))
    return out


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Folder for runs; when the test is over, no process is left that filled it."""
    with cleared(tmp_path / "runs"):
        yield tmp_path / "runs"


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process; what it said on stderr."""
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said
    return said[1]


@dataclass(frozen=True)
class Head:
    """A Dask scheduler and its workers, each a process of its own as on several machines."""

    address: str
    scheduler: subprocess.Popen[str]
    workers: tuple[subprocess.Popen[str], ...]

    def end(self) -> None:
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.communicate(timeout=PATIENCE)


def dask_head(mark: Path) -> Head:
    """Start them; workers without a nanny, so that killed they are gone."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = "distributed.cli.dask_"
    scheduler = start_here(mark, f"{dask}scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard")
    how = ("--nthreads=1", "--no-nanny", "--no-dashboard")
    return Head(address, scheduler, tuple(start_here(mark, f"{dask}worker", address, *how) for _ in range(2)))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("engine", ENGINES[1:])  # of loky's tests/cli/test_kill_sweep.py shows it
def test_killed_it_goes_on_to_the_same_bytes(caches: Path, whole: Path, out: Path, engine: str) -> None:
    words = ("--engine", engine, "--jobs", "2")
    with cleared(out):  # its workers end with it
        process = start(caches, out, *words)
        _, worker = run_at_work(process, out)
        assert worker != process.pid
        process.kill()
        process.communicate(timeout=PATIENCE)
    ended(start(caches, out, *words))
    assert differences(whole, out) == [] and len(learned(out)) == 6
    assert not list(out.rglob("*.tmp")) + list(out.rglob("checkpoint.pt")) + list(out.rglob(".run.lock"))


@pytest.mark.parametrize("engine", ENGINES[:2])  # of Ray's tests/runs/test_engines.py shows it
def test_a_worker_that_dies_loses_its_run_only(caches: Path, whole: Path, out: Path, engine: str) -> None:
    words = ("--engine", engine, "--jobs", "2")
    process = start(caches, out, *words)
    lost, worker = run_at_work(process, out)
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    if engine == "dask":  # another worker carries it out anew
        ended(process)
    else:
        said = ended(process, 1)
        assert "1 of 3 runs came to nothing" in said and f"failed: {lost}\n" in said
        assert not (lost / "results.json").exists() and len(list(out.rglob("results.json"))) == 2
        ended(start(caches, out, *words))
    assert differences(whole, out) == [] and len(learned(out)) == 6


def test_a_scheduler_that_dies_ends_the_sweep_and_loses_nothing(caches: Path, whole: Path, out: Path) -> None:
    pytest.importorskip("distributed")
    head = dask_head(out)
    words = ("--engine", "dask", "--jobs", "2", "--scheduler", head.address)
    process = start(caches, out, *words)
    found_when(process, lambda: list(out.rglob("results.json")))
    head.scheduler.kill()
    said = ended(process, 1)
    assert f"error: the scheduler {head.address} is gone" in said and "give the same command again" in said
    assert "Traceback" not in said
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("results.json")}
    assert kept
    head.end()
    said = ended(start(caches, out, *words), 1)
    assert f"wanted a Dask scheduler at {head.address}, got no answer (Connection refused)" in said
    again = dask_head(out)
    ended(start(caches, out, *words[:-1], again.address))
    again.end()
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert differences(whole, out) == [] and len(learned(out)) == 6
