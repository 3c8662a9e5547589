"""How a process of ours starts, holds memory and ends, and the workers that it starts."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time

import pytest

from cptlite.process import keep_freed_memory, loading
from cptlite.runs.workers import make_workers, starting_workers


def run(code: str, **streams: int) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, which keeps what it prints until it is flushed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    streams = streams or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([sys.executable, "-c", code], check=False, text=True, env=env, **streams)


@pytest.mark.parametrize(("library", "wanted"), [("glibc", [(-1, -1), (-3, 2**25), (-4, 0)]), ("", [])])
def test_memory_is_kept_where_it_is_glibcs(
    library: str, wanted: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which calls are made: what they save depends on how the system lays memory out, so it is measured, not tested."""
    calls = []

    class Library:
        def __init__(self, name: None) -> None:
            pass

        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return 1

    monkeypatch.setattr(platform, "libc_ver", lambda: (library, "2.36"))
    monkeypatch.setattr("ctypes.CDLL", Library)
    keep_freed_memory()
    assert calls == wanted


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_modules_load(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(ImportError, match="no such thing"), loading():
            assert not gc.isenabled()
            raise ImportError("no such thing")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


def test_what_was_registered_runs_and_what_was_printed_is_there() -> None:
    done = run(
        "import atexit, sys; from cptlite.process import leave\n"
        "atexit.register(print, 'registered'); print('printed'); print('said', file=sys.stderr); leave(3)"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("printed\nregistered\n", "said\n", 3)


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe as a shell does")
def test_a_reader_that_has_gone_makes_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("from cptlite.process import leave\nprint('x' * 100); leave(0)", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 1)


def test_the_demo_draws_before_it_loads_pytorch() -> None:
    done = run("import sys, cptlite.demo; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def alive(process: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="looks processes up as Linux does")
def test_workers_are_started_once_and_stopped() -> None:
    def calls() -> list[tuple[object, ...]]:
        return [(os.getpid, (), {})] * 4

    with starting_workers(2):
        first, second = (set(make_workers(2)(calls())) for _ in range(2))
        assert os.getpid() not in first
        assert len(first | second) <= 2
    ends = time.monotonic() + 30
    while any(map(alive, first | second)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(map(alive, first | second))


@pytest.mark.skipif(os.name != "posix", reason="looks processes up as Linux does")
def test_workers_are_stopped_where_the_work_fails() -> None:
    with pytest.raises(ValueError, match="not to be"), starting_workers(2):
        (found,) = make_workers(2)([(os.getpid, (), {})])
        raise ValueError("not to be")
    ends = time.monotonic() + 30
    while alive(found) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not alive(found)


def test_one_job_runs_here() -> None:
    with starting_workers(1):
        assert list(make_workers(1)([(os.getpid, (), {})])) == [os.getpid()]
