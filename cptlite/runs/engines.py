"""Where calls are carried out: in this process, in worker processes of this machine, or by Dask or Ray.

A call that raises ends all of them: what may fail says so by what it returns. A worker that dies takes along the call
that it was at.

Sources: loky, joblib's own worker processes; joblib's backends for Dask (joblib.parallel_config) and Ray
(ray.util.joblib).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from cptlite.errors import UsageError
from cptlite.runs.workers import prepare_worker

__all__ = ["ENGINES", "Died", "carry_out", "check_engine"]

LOKY, DASK, RAY = ENGINES = ("loky", "dask", "ray")

Call = Callable[[], Any]


@dataclass(frozen=True)
class Died:
    """What became of a call whose worker died."""

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
    if engine == LOKY:
        yield from _in_workers(calls, jobs) if jobs > 1 else ((place, call()) for place, call in enumerate(calls))
        return
    left = set(range(len(calls)))
    with ExitStack() as stack:
        stack.enter_context((_dask if engine == DASK else _ray)(stack, jobs, scheduler))
        returned = "generator_unordered" if engine == DASK else "list"  # joblib has no generator for Ray
        workers = Parallel(n_jobs=jobs, return_as=returned, batch_size=1, pre_dispatch="all")
        try:
            for place, outcome in workers(delayed(_placed)(place, call) for place, call in enumerate(calls)):
                left.remove(place)
                yield place, outcome
        except Exception as error:  # of whichever kind the engine has for what befalls it
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield from ((place, Died(f"{engine} gave up ({reason})")) for place in sorted(left))


def _in_workers(calls: Sequence[Call], jobs: int) -> Iterator[Any]:
    """Carry calls out in worker processes, each of an executor of its own: one that dies breaks no other's."""
    waiting = deque(enumerate(calls))
    idle: list[ProcessPoolExecutor] = []
    running: dict[Future, tuple[int, ProcessPoolExecutor]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, call = waiting.popleft()
                worker = idle.pop() if idle else ProcessPoolExecutor(max_workers=1, initializer=prepare_worker)
                running[worker.submit(call)] = place, worker
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, worker = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    worker.shutdown(kill_workers=True)
                    outcome = Died("its worker process died (killed from outside, or for memory)")
                else:
                    idle.append(worker)
                yield place, outcome
    finally:
        for worker in (*idle, *(worker for _, worker in running.values())):
            worker.shutdown(kill_workers=True)


def _placed(place: int, call: Call) -> tuple[int, Any]:
    return place, call()


def _dask(stack: ExitStack, jobs: int, scheduler: str) -> Any:
    """Joblib with Dask, whose workers have one thread each: a process trains one group at a time.

    Dask carries out anew, in another worker, what a worker was at that died.
    """
    from dask.distributed import Client, LocalCluster

    place: Any = scheduler or stack.enter_context(
        LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    )
    client = stack.enter_context(Client(place))
    if any(threads > 1 for threads in client.nthreads().values()):
        raise UsageError("wanted Dask workers of one thread each, got some of more: start them with --nthreads 1")
    return parallel_config(backend="dask", client=client)


def _ray(stack: ExitStack, jobs: int, scheduler: str) -> Any:
    """Joblib with Ray."""
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    cluster = {"address": scheduler} if scheduler else {"num_cpus": jobs, "include_dashboard": False}
    ray.init(**cluster, log_to_driver=False)
    stack.callback(ray.shutdown)
    return parallel_config(backend="ray")
