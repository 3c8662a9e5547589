"""Worker processes: joblib's, which live on between calls, so that they can be started before there is work for them.

A worker takes seconds to import PyTorch. Started first thing, it does so while the caller imports, draws or encodes;
this module loads none of it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from cptlite.process import keep_freed_memory, loading

__all__ = ["make_workers", "prepare_worker", "starting_workers"]

LOOK_SECONDS = 0.2  # between looks at whether the caller still lives


def make_workers(jobs: int) -> Parallel:
    """Return what carries calls out in worker processes, one of them right here, and yields results in order."""
    # Processes are told apart by their initializer: all of as many jobs are the same ones.
    return Parallel(n_jobs=jobs, return_as="generator", **({"initializer": prepare_worker} if jobs > 1 else {}))


@contextmanager
def starting_workers(jobs: int) -> Iterator[None]:
    """Start the worker processes, and go on while they prepare; at the end they are stopped."""
    if jobs == 1:
        yield
        return
    ready = make_workers(jobs)(delayed(int)() for _ in range(jobs))
    try:
        yield
    finally:
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)  # their results are here
        with suppress(RuntimeError):  # an error came before they were ready
            list(ready)


def prepare_worker() -> None:
    """Load what a run needs, in a worker; an interrupt is the caller's to answer, and it ends with the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with loading():
        import cptlite.runs.execute  # noqa: F401
    keep_freed_memory()


def _end_with(caller: int) -> None:
    """End this process once the one that started it is gone: it holds runs that the next caller goes on with."""
    while os.getppid() == caller:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
