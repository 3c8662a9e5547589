"""Pools of workers: loky's processes, Dask's and Ray's; each carries out one call at a time, as a future of its own.

Where GPUs are given, a worker sees one of them.

Sources: loky, joblib's own worker processes; Dask's futures and, for an environment of each worker,
SpecCluster.new_worker_spec; Ray's tasks and their num_gpus.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from math import ceil
from typing import Any
from urllib.parse import urlsplit

from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from cptlite.errors import CptliteError, UsageError
from cptlite.process import GPU_VARIABLE
from cptlite.runs.workers import prepare_worker

__all__ = ["DASK", "LOKY", "POOLS", "RAY", "Call", "check_address", "next_gpu"]

LOKY, DASK, RAY = "loky", "dask", "ray"
ANSWER_SECONDS = 10.0  # to wait for a scheduler, and for its first worker
PROTOCOLS = {DASK: ("tcp", "tls"), RAY: ("", "ray")}  # of an address; none is written as host:port

Call = Callable[[], Any]
Submit = Callable[[Call], Future]


def check_address(engine: str, scheduler: str) -> None:
    """Refuse an address of Dask or Ray where nothing listens: they would try again and again, Ray for minutes.

    Raises
    ------
    UsageError
        It is no address.
    CptliteError
        Nothing answers there.
    """
    if (engine, scheduler) == (RAY, "auto"):  # which Ray looks for on this machine alone
        return
    protocols = PROTOCOLS[engine]
    try:
        bare = f"{protocols[0]}://{scheduler}" if protocols[0] else f"//{scheduler}"
        place = urlsplit(scheduler if "://" in scheduler else bare)
        host, port = place.hostname, place.port
    except ValueError:  # of a port that is none
        host = port = None
    if not host or not port or place.scheme not in protocols:
        ways = " or ".join(f"{protocol}://HOST:PORT" if protocol else "HOST:PORT" for protocol in protocols)
        raise UsageError(f"--scheduler of {engine}: wanted {ways}, got {scheduler!r}: give it so")
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            if place.scheme == "tcp" and not connection.recv(1):  # Dask's listener speaks first
                raise ConnectionError("it hung up")
    except OSError as error:
        raise _no_answer(engine, scheduler, error.strerror or str(error)) from None


def _no_answer(engine: str, scheduler: str, why: str) -> CptliteError:
    start = {DASK: "dask scheduler", RAY: "ray start --head"}[engine]
    return CptliteError(
        f"wanted a {engine.capitalize()} scheduler at {scheduler}, got no answer ({why}): start it with `{start}`, "
        f"give its address, or leave --scheduler out"
    )


@contextmanager
def _loky(jobs: int, scheduler: str, gpus: Sequence[str]) -> Iterator[Submit]:
    """Worker processes, each of an executor of its own: one that dies breaks no other's."""
    last: dict[ProcessPoolExecutor, Future] = {}  # that each worker was given
    sees: dict[ProcessPoolExecutor, str] = {}

    def submit(call: Call) -> Future:
        for worker in [worker for worker, future in last.items() if future.done()]:
            with suppress(BrokenProcessPool):
                last[worker] = worker.submit(call)
                return last[worker]
            worker.shutdown(kill_workers=True)  # it died, at work or after it
            del last[worker]
            sees.pop(worker, None)
        worker = start()
        last[worker] = worker.submit(call)
        return last[worker]

    def start() -> ProcessPoolExecutor:
        if not gpus:
            return ProcessPoolExecutor(max_workers=1, initializer=prepare_worker)
        gpu = next_gpu(gpus, sees.values())
        worker = ProcessPoolExecutor(max_workers=1, initializer=prepare_worker, env={GPU_VARIABLE: gpu})
        sees[worker] = gpu
        return worker

    try:
        yield submit
    finally:
        for worker in last:
            worker.shutdown(kill_workers=True)


def next_gpu(gpus: Sequence[str], taken: Iterable[str]) -> str:
    """Choose the GPU that fewest workers see, the first of equal ones."""
    workers = Counter(taken)
    return min(gpus, key=lambda gpu: workers[gpu])


@contextmanager
def _dask(jobs: int, scheduler: str, gpus: Sequence[str]) -> Iterator[Submit]:
    """Dask's workers, of one thread each: a process carries out one call at a time.

    What a worker was at that died is carried out anew in another, unless it has cost several.
    """
    from dask.distributed import Client

    with ExitStack() as stack:
        stack.enter_context(_silent("distributed", "distributed.client"))
        place = scheduler or stack.enter_context(_dask_cluster(jobs, gpus))
        try:
            client = stack.enter_context(Client(place))
            client.wait_for_workers(1, timeout=ANSWER_SECONDS if scheduler else None)  # ours will come
        except TimeoutError:
            raise CptliteError(
                f"wanted Dask workers at {scheduler}, got none: start some with `dask worker {scheduler} --nthreads 1`"
            ) from None
        except OSError as error:
            raise _no_answer(DASK, scheduler, str(error)) from None
        if any(threads > 1 for threads in client.nthreads().values()):
            raise UsageError("wanted Dask workers of one thread each, got some of more: start them with --nthreads 1")
        yield lambda call: _dask_future(client, call)


def _dask_future(client: Any, call: Call) -> Future:
    """Hand a call to Dask; what it returns, or cancelled where the scheduler is gone.

    Dask's own executor leaves a future as it is, never done, whose scheduler goes while its result is on the way.
    """
    from distributed.comm import CommClosedError

    ours: Future = Future()

    def pass_on(theirs: Any) -> None:
        try:
            ours.set_result(theirs.result())
        except (CancelledError, CommClosedError):
            ours.cancel()
            ours.set_running_or_notify_cancel()  # wakes who waits
        except Exception as error:
            ours.set_exception(error)

    client.submit(call, pure=False).add_done_callback(pass_on)
    return ours


@contextmanager
def _silent(*loggers: str) -> Iterator[None]:
    """Keep from stderr what a library logs, with its tracebacks, of workers and schedulers that die; we say it."""
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _dask_cluster(jobs: int, gpus: Sequence[str]) -> Any:
    """Start a scheduler in this process, and workers, whose memory is theirs to take as it is loky's."""
    from dask.distributed import LocalCluster

    class Cluster(LocalCluster):
        def new_worker_spec(self) -> dict[Any, Any]:
            ((name, spec),) = super().new_worker_spec().items()
            taken = [each["options"]["env"][GPU_VARIABLE] for each in self.worker_spec.values()]
            own = {GPU_VARIABLE: next_gpu(gpus, taken)}
            return {name: {**spec, "options": {**spec["options"], "env": own}}}

    how = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": None}
    if not gpus:
        return LocalCluster(n_workers=jobs, **how)
    cluster = Cluster(n_workers=0, **how)
    cluster.scale(jobs)
    return cluster


@contextmanager
def _ray(jobs: int, scheduler: str, gpus: Sequence[str]) -> Iterator[Submit]:
    """Ray's tasks, of one core and, where the cluster has GPUs, a part of one each, so that as many run at a time."""
    import ray

    own = {"address": "local", "num_cpus": jobs, "num_gpus": len(gpus), "include_dashboard": False}
    try:
        ray.init(**({"address": scheduler} if scheduler else own), log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        if not scheduler:
            raise
        raise _no_answer(RAY, scheduler, str(error).strip().splitlines()[0]) from None
    try:
        there = int(ray.cluster_resources().get("GPU", 0))
        part = 1 / ceil(jobs / there) if there else 0
        carry = ray.remote(num_cpus=1, num_gpus=part, max_retries=0)(_carry)
        yield lambda call: carry.remote(call).future()
    finally:
        ray.shutdown()


def _carry(call: Call) -> Any:
    return call()


POOLS: dict[str, Callable[[int, str, Sequence[str]], AbstractContextManager[Submit]]] = {
    LOKY: _loky,
    DASK: _dask,
    RAY: _ray,
}
