"""Calls in worker processes: one that dies takes its own call along."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from cptlite.errors import UsageError
from cptlite.runs.engines import ENGINES, Died, carry_out, check_engine


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_dies_loses_its_call_only(engine: str) -> None:
    if engine != "loky":
        pytest.importorskip({"dask": "distributed"}.get(engine, engine))

    def answer(place: int) -> int:  # goes by value: the workers know nothing of tests
        import os
        import signal

        if place == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    def call(place: int) -> object:
        return lambda: answer(place)

    ended = dict(carry_out([call(place) for place in range(5)], engine=engine, jobs=2))
    assert isinstance(ended.pop(1), Died) and len(ended) == 4
    assert os.getpid() not in ended.values()


def test_one_job_runs_here() -> None:
    assert list(carry_out([os.getpid, lambda: 3])) == [(0, os.getpid()), (1, 3)]


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    for name in ("dask", "dask.distributed", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'cptlite\[{engine}\]'"):
        check_engine(engine)
