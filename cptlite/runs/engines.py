"""Where calls are carried out: in this process, in worker processes of this machine, or by Dask or Ray.

What a call raises, and that its worker died, ends that call alone: each is a future of its own, where joblib's Parallel
would end all.

Sources: loky, joblib's own worker processes; Dask's futures (Client.get_executor); Ray's tasks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from cptlite.errors import UsageError
from cptlite.runs.workers import prepare_worker

__all__ = ["ENGINES", "Died", "carry_out", "check_engine"]

LOKY, DASK, RAY = ENGINES = ("loky", "dask", "ray")

Call = Callable[[], Any]
Submit = Callable[[Call], Future]


@dataclass(frozen=True)
class Died:
    """What became of a call that returned nothing, since its worker died."""

    message: str


def check_engine(engine: str, scheduler: str = "") -> None:
    """Refuse an engine that is not known or not installed.

    Raises
    ------
    UsageError
        It says what to give, or what to install.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: give one of {', '.join(ENGINES)}")
    if engine == LOKY and scheduler:
        raise UsageError(f"loky runs on this machine alone, got --scheduler {scheduler}: give --engine dask or ray too")
    try:
        if engine == DASK:
            import dask.distributed  # noqa: F401
        if engine == RAY:
            import ray  # noqa: F401
    except ImportError:
        raise UsageError(
            f"--engine {engine} wants a package that is not installed: pip install 'cptlite[{engine}]', or give "
            f"--engine {LOKY}"
        ) from None


def carry_out(calls: Sequence[Call], *, engine: str = LOKY, jobs: int = 1, scheduler: str = "") -> Iterator[Any]:
    """Carry calls out, several at a time.

    Parameters
    ----------
    calls : sequence of callable
        Without arguments; picklable where they are for another process.
    engine : str
        One of `ENGINES`. With ``loky`` and one job they run right here.
    jobs : int
        How many at a time.
    scheduler : str
        Address of a Dask scheduler or a Ray cluster; by default one is started on this machine.

    Yields
    ------
    (int, object)
        Place of a call that ended and what it returned, or `Died`, in the order in which they end.
    """
    if engine == LOKY and jobs == 1:
        yield from ((place, call()) for place, call in enumerate(calls))
        return
    waiting = deque(enumerate(calls))
    running: dict[Future, int] = {}
    with POOLS[engine](jobs, scheduler) as submit:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, call = waiting.popleft()
                running[submit(call)] = place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                yield running.pop(future), future.result() if error is None else Died(_explain(error))


def _explain(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its worker process died (killed from outside, or for memory)"
    return f"its worker gave up ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''})"


@contextmanager
def _loky(jobs: int, scheduler: str) -> Iterator[Submit]:
    """Worker processes, each of an executor of its own: one that dies breaks no other's."""
    last: dict[ProcessPoolExecutor, Future] = {}  # that each worker was given

    def submit(call: Call) -> Future:
        free = (worker for worker, future in last.items() if future.done() and future.exception() is None)
        worker = next(free, None) or ProcessPoolExecutor(max_workers=1, initializer=prepare_worker)
        last[worker] = worker.submit(call)
        return last[worker]

    try:
        yield submit
    finally:
        for worker in last:
            worker.shutdown(kill_workers=True)


@contextmanager
def _dask(jobs: int, scheduler: str) -> Iterator[Submit]:
    """Dask's workers, of one thread each: a process carries out one call at a time.

    What a worker was at that died is carried out anew in another, unless it has cost several.
    """
    from dask.distributed import Client, LocalCluster

    with ExitStack() as stack:
        place: Any = scheduler or LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
        if not scheduler:
            stack.enter_context(place)
        client = stack.enter_context(Client(place))
        if any(threads > 1 for threads in client.nthreads().values()):
            raise UsageError("wanted Dask workers of one thread each, got some of more: start them with --nthreads 1")
        yield client.get_executor(pure=False).submit


@contextmanager
def _ray(jobs: int, scheduler: str) -> Iterator[Submit]:
    """Ray's tasks, of one core each."""
    import ray

    where = {"address": scheduler} if scheduler else {"num_cpus": jobs, "include_dashboard": False}
    ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    try:
        carry = ray.remote(num_cpus=1, max_retries=0)(_carry)
        yield lambda call: carry.remote(call).future()
    finally:
        ray.shutdown()


def _carry(call: Call) -> Any:
    return call()


POOLS: dict[str, Callable[[int, str], AbstractContextManager[Submit]]] = {LOKY: _loky, DASK: _dask, RAY: _ray}
