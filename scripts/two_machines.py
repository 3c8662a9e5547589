"""Run a sweep on two machines that share a folder, and compare it with loky's; they are namespaces of this machine.

``sudo python scripts/two_machines.py --cache-dir demo/cache --work work``; docs/sweep.md says what it printed. Each
network namespace has an address of its own on a bridge between them, and no loopback in common: what one says to the
other goes over a wire, as it would between machines. The Dask scheduler, a worker and ``cptlite sweep`` run in one, a
worker in the other. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from same_runs import differences, learned

from cptlite.environment import describe_environment, find_device

BRIDGE, MACHINES = "cptlite-br", ("cptlite-a", "cptlite-b")
ADDRESSES = ("198.18.77.1", "198.18.77.2")  # of a range set aside for tests of networks, RFC 2544
PORT = 8786
PLAN = ("--methods=linear-probe,coop-mt,softcpt", "--shots=1,4", "--seeds=1-2", "--set=epochs=20")


def main() -> int:
    """Make the sweep by loky and on the two machines, and compare them; 0 if they agree."""
    given = _parse()
    _check()
    given.work.mkdir(parents=True)
    environment = describe_environment(find_device("cpu"))
    print(f"{date.today()}: {environment['processor']}, {environment['cores']} cores, torch {environment['torch']}")
    here, there = given.work / "loky", given.work / "two-machines"
    subprocess.run(_sweep(given, here, "--engine=loky"), check=True, stdout=subprocess.DEVNULL)
    with _machines(), _dask(given.work) as address:
        words = _sweep(given, there, "--engine=dask", f"--scheduler={address}")
        subprocess.run(_on(MACHINES[0], words), check=True, stdout=subprocess.DEVNULL)
        print(f"runs by worker: {_count_by_worker(address)}")
    different = differences(here, there)
    print(f"{len(list(there.rglob('results.json')))} runs, {len(learned(there))} files of what was learned")
    print(f"files that differ from loky's in more than times: {', '.join(different) or 'none'}")
    return 1 if different else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder, which both machines see")
    parser.add_argument("words", nargs="*", default=PLAN, help="of the sweep, behind --")
    return parser.parse_args()


def _check() -> None:
    """Refuse where no network namespaces can be made."""
    if shutil.which("ip") is None:
        raise SystemExit("wanted the command ip, found none: install iproute2")
    done = subprocess.run(["ip", "netns", "add", MACHINES[0]], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"wanted to make network namespaces, got {done.stderr.strip()!r}: run this as root, outside of a container "
            f"that forbids it, and after `ip netns delete` of {' and '.join(MACHINES)} where an earlier run left them"
        )
    _ip("netns", "delete", MACHINES[0])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def _machines() -> Iterator[None]:
    """Make two namespaces with a cable each to a bridge, for as long as the block lasts."""
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("link", "set", BRIDGE, "up")
        for machine, address in zip(MACHINES, ADDRESSES, strict=True):
            _ip("netns", "add", machine)
            _ip("link", "add", machine, "type", "veth", "peer", "name", "eth0", "netns", machine)
            _ip("link", "set", machine, "master", BRIDGE, "up")
            _ip("-n", machine, "link", "set", "lo", "up")
            _ip("-n", machine, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", machine, "link", "set", "eth0", "up")
        yield
    finally:
        for machine in MACHINES:
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True)  # with its cable
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


def _on(machine: str, words: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", machine, *words]


@contextmanager
def _dask(work: Path) -> Iterator[str]:
    """Start a scheduler on the first machine and a worker on each; its address."""
    address = f"tcp://{ADDRESSES[0]}:{PORT}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", f"--host={ADDRESSES[0]}", f"--port={PORT}", "--no-dashboard"]
    processes = []
    with (work / "dask.log").open("wb") as log:
        try:
            processes.append(subprocess.Popen(_on(MACHINES[0], scheduler), stdout=log, stderr=log))
            for machine, own in zip(MACHINES, ADDRESSES, strict=True):
                worker = [*dask, "worker", address, f"--host={own}", f"--name={machine}", "--nthreads=1"]
                processes.append(subprocess.Popen(_on(machine, [*worker, "--no-dashboard"]), stdout=log, stderr=log))
            _count_by_worker(address)  # waits for them
            yield address
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait()


COUNT = """
import json, sys
from distributed import Client
with Client(sys.argv[1], timeout=60) as client:
    client.wait_for_workers(2, timeout=60)
    told = client.run(lambda dask_worker: [dask_worker.name, dask_worker.state.executed_count])
    print(json.dumps(dict(told.values())))
"""


def _count_by_worker(address: str) -> dict[str, int]:
    """How many calls each worker has carried out, once both are there; asked on the second machine."""
    words = _on(MACHINES[1], [sys.executable, "-c", COUNT, address])
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def _sweep(given: argparse.Namespace, out: Path, *how: str) -> list[str]:
    where = [f"--cache-dir={given.cache_dir.absolute()}", f"--out={out.absolute()}", "--jobs=2"]
    return [sys.executable, "-m", "cptlite", "sweep", *given.words, *where, *how]


if __name__ == "__main__":
    sys.exit(main())
