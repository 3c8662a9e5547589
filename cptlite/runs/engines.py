"""Where calls are carried out: in this process, in worker processes of this machine, or by Dask or Ray.

What a call raises, and that its worker died, ends that call alone: each is a future of its own, where joblib's Parallel
would end all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from joblib.externals.loky.process_executor import BrokenProcessPool

from cptlite.errors import CptliteError, UsageError
from cptlite.runs.pools import DASK, LOKY, POOLS, RAY, Call, check_address

__all__ = ["ENGINES", "LOKY", "Died", "carry_out", "check_engine"]

ENGINES = (LOKY, DASK, RAY)


@dataclass(frozen=True)
class Died:
    """What became of a call that returned nothing, since its worker died."""

    message: str


def check_engine(engine: str, scheduler: str = "") -> None:
    """Refuse an engine that is not known or not installed, and a scheduler that does not answer.

    Raises
    ------
    UsageError
        It says what to give, or what to install.
    CptliteError
        Nothing answers at the scheduler's address.
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
    if scheduler:
        check_address(engine, scheduler)


def carry_out(
    calls: Sequence[Call], *, engine: str = LOKY, jobs: int = 1, scheduler: str = "", gpus: Sequence[str] = ()
) -> Iterator[Any]:
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
        Address of a Dask scheduler or a Ray cluster; by default one is started on this machine. Dask's workers there
        see what they were started with, and Ray's the GPUs of the cluster.
    gpus : sequence of str
        GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` names them; each worker sees one. If there are none workers
        see what this process sees.

    Raises
    ------
    UsageError
        Dask's workers carry out several calls at a time.
    CptliteError
        The scheduler does not answer, is gone, or has no workers.

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
    with POOLS[engine](jobs, scheduler, gpus) as submit:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, call = waiting.popleft()
                running[submit(call)] = place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                if future.cancelled():
                    raise CptliteError(
                        f"the scheduler {scheduler or engine} is gone, and with it {len(waiting) + len(running)} of "
                        f"{len(calls)} calls; what is finished is kept: start it, and give the same command again"
                    )
                error = future.exception()
                yield running.pop(future), future.result() if error is None else Died(_explain(error))


def _explain(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its worker process died (killed from outside, or for memory)"
    return f"its worker gave up ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''})"
