"""Kill a sweep three times, go on with it, and compare it with one that nobody disturbed.

``python scripts/kill_sweep.py --cache-dir demo/cache --work work``; docs/sweep.md says what it printed. Two sweeps are
made of one plan: every method, 5 numbers of shots, 3 seeds. One of them is killed by SIGKILL at moments that are drawn:
the command with all its processes, then a worker alone, then the command again. With ``--engine dask`` scheduler and
workers are processes of their own, and the third to die is the scheduler. At the end the reports of both and every
file of their runs are compared byte for byte, but for times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from same_runs import differences, without_times

from cptlite.environment import describe_environment, find_device
from cptlite.methods.table import METHODS

LOOK_SECONDS = 0.02
Process = subprocess.Popen[bytes]


def main(words: Sequence[str] | None = None) -> int:
    """Make both sweeps and compare them; 0 if they agree."""
    given = _parse(words)
    given.work.mkdir(parents=True)
    environment = describe_environment(find_device("cpu"))
    print(f"{date.today()}: {environment['processor']}, {environment['cores']} cores, torch {environment['torch']}")
    whole, killed = given.work / "whole", given.work / "killed"
    started = time.monotonic()
    with _engine(given) as (_, how):
        _end(_start(given, whole, how))
    seconds, runs = time.monotonic() - started, len(_finished(whole))
    print(f"undisturbed: {runs} runs, {seconds:.0f} s")
    _kill_three_times(given, killed, runs, seconds / runs)
    with _engine(given) as (_, how):
        _end(_start(given, killed, how))
    print(f"the same command at last: {len(_finished(killed))} runs")
    same, different = _report(whole) == _report(killed), differences(whole, killed)
    print(f"reports, but for times: {'the same' if same else 'DIFFERENT'}")
    print(f"files of runs that differ in more than times: {', '.join(different) or 'none'}")
    return 0 if same and not different else 1


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder, for both sweeps")
    parser.add_argument("--engine", choices=("loky", "dask"), default="loky")
    parser.add_argument("--jobs", type=int, default=2, help="two at least: a worker is no worker else")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("words", nargs="*", help="of the sweep, behind --; by default all methods, two epochs")
    given = parser.parse_args(words)
    given.words = given.words or [f"--methods={','.join(METHODS)}", "--set=epochs=2"]
    return given


def _kill_three_times(given: argparse.Namespace, out: Path, runs: int, run_seconds: float) -> None:
    """Begin a sweep of so many runs, and kill it, a worker, and it again or the scheduler, in the first two thirds."""
    draw = random.Random(given.seed)
    moments = sorted(draw.sample(range(1, max(5, 2 * runs // 3)), 3))
    with _engine(given) as (scheduler, how):
        sweep = _start(given, out, how)
        for number, moment in enumerate(moments):
            _wait_until(sweep, lambda least=moment: len(_finished(out)) >= least)  # type: ignore[misc]
            time.sleep(draw.random() * run_seconds)
            if number == 1:
                said = f"a worker, which held {_kill_worker(sweep, out)}"
            elif number == 2 and scheduler:
                scheduler.kill()
                said = f"the scheduler; the command ended with {sweep.wait()}"
            else:
                os.killpg(sweep.pid, signal.SIGKILL)
                said = f"the command and its processes ({sweep.wait()})"
            print(f"killed at {len(_finished(out))} runs: {said}")
            if number == 0:
                sweep = _start(given, out, how)


@contextmanager
def _engine(given: argparse.Namespace) -> Iterator[tuple[Process | None, list[str]]]:
    """Start what the engine needs; its scheduler, and the words that name it."""
    how = [f"--engine={given.engine}", f"--jobs={given.jobs}"]
    if given.engine != "dask":
        yield None, how
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    log = given.work / "dask.log"
    scheduler = _run(["dask", "scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard"], log)
    worker = ["dask", "worker", address, "--nthreads=1", f"--nworkers={given.jobs}", "--no-dashboard"]
    processes = [scheduler, _run(worker, log)]
    try:
        _wait_until(scheduler, lambda: _answers(port))
        yield scheduler, [*how, f"--scheduler={address}"]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def _start(given: argparse.Namespace, out: Path, how: Sequence[str]) -> Process:
    where = [f"--cache-dir={given.cache_dir}", f"--out={out}"]
    return _run(["cptlite", "sweep", *given.words, *where, *how], given.work / f"{out.name}.log")


def _run(words: Sequence[str], log: Path) -> Process:
    """Start a module as the first of a process group of its own."""
    with log.open("ab") as stream:
        return subprocess.Popen([sys.executable, "-m", *words], stdout=stream, stderr=stream, start_new_session=True)


def _end(sweep: Process) -> None:
    if sweep.wait():
        raise SystemExit(f"the sweep ended with {sweep.returncode}: see the logs in --work")


def _wait_until(process: Process, seen: Callable[[], bool]) -> None:
    while not seen():
        if process.poll() is not None:
            raise SystemExit(f"a process ended with {process.returncode} before its time: see the logs in --work")
        time.sleep(LOOK_SECONDS)


def _finished(out: Path) -> list[Path]:
    return list(out.rglob("results.json"))


def _kill_worker(sweep: Process, out: Path) -> str:
    """Kill a process that holds a run, and is not the command; the run."""
    while sweep.poll() is None:
        for lock in out.rglob(".run.lock"):
            with suppress(OSError, IndexError, ValueError):  # that run ended between two looks
                worker = int(lock.read_text(encoding="utf-8").split()[1])
                if worker != sweep.pid:
                    os.kill(worker, signal.SIGKILL)
                    return lock.parent.relative_to(out).as_posix()
    raise SystemExit("the sweep was over before a worker could be killed: give it longer runs")


def _report(out: Path) -> str:
    """Tables of the runs as JSON, without times and the folder's name."""
    words = [sys.executable, "-m", "cptlite", "report", str(out), "--json"]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return json.dumps(without_times(json.loads(told.replace(str(out), ""))))


if __name__ == "__main__":
    sys.exit(main())
