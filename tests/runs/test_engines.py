"""Calls in worker processes: one that dies takes its own call along."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time

import pytest

from cptlite.errors import CptliteError, UsageError
from cptlite.process import GPU_VARIABLE, name_gpus
from cptlite.runs import pools
from cptlite.runs.engines import ENGINES, Died, carry_out, check_engine
from cptlite.runs.pools import next_gpu


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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_each_worker_sees_one_gpu(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine != "loky":
        pytest.importorskip({"dask": "distributed"}.get(engine, engine))
    monkeypatch.setenv(GPU_VARIABLE, "4,7")

    def look() -> tuple[int, str | None]:
        import os
        import time

        time.sleep(0.3)  # so that one worker cannot take all
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")

    ended = [seen for _, seen in carry_out([look] * 6, engine=engine, jobs=3, gpus=name_gpus(range(2)))]
    by_process = dict(ended)
    assert set(by_process.values()) == {"4", "7"}
    assert all(by_process[number] == gpu for number, gpu in ended)  # for as long as it lives


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_dies_between_calls_loses_none() -> None:
    ended: list[object] = []
    for _, answer in carry_out([os.getpid] * 4, jobs=2):
        if not ended:
            os.kill(answer, signal.SIGKILL)
            time.sleep(1.0)  # until that is noticed; before, the next call would be lost
        ended.append(answer)
    assert len(ended) == 4 and not any(isinstance(answer, Died) for answer in ended)
    assert ended[0] not in ended[1:]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_worker_after_one_that_died_gets_its_gpu() -> None:
    def call(place: int) -> object:
        def answer() -> str:
            import os
            import signal
            import time

            if place == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.5)  # the second worker is at work while the third call comes
            return os.environ["CUDA_VISIBLE_DEVICES"]

        return answer

    ended = dict(carry_out([call(place) for place in range(4)], jobs=2, gpus=("0", "1")))
    assert isinstance(ended.pop(0), Died) and set(ended.values()) == {"0", "1"}


def test_gpus_are_shared_evenly() -> None:
    taken: list[str] = []
    for _ in range(5):
        taken.append(next_gpu(("2", "GPU-1f", "3"), taken))
    assert taken == ["2", "GPU-1f", "3", "2", "GPU-1f"]


@pytest.mark.parametrize(
    ("engine", "address", "code", "message"),
    [
        ("dask", "head", 2, "--scheduler of dask: wanted tcp://HOST:PORT or tls://HOST:PORT, got 'head'"),
        ("dask", "http://head:80", 2, "wanted tcp://HOST:PORT"),
        ("dask", "head:seven", 2, "wanted tcp://HOST:PORT"),
        ("ray", "head", 2, "--scheduler of ray: wanted HOST:PORT or ray://HOST:PORT, got 'head'"),
        ("dask", "tcp://127.0.0.1:{port}", 1, "wanted a Dask scheduler at tcp://127.0.0.1:{port}, got no answer"),
        ("dask", "127.0.0.1:{port}", 1, "start it with `dask scheduler`"),
        ("ray", "127.0.0.1:{port}", 1, "start it with `ray start --head`"),
        ("ray", "no.such.host.invalid:6379", 1, "wanted a Ray scheduler at no.such.host.invalid:6379, got no answer"),
    ],
)
def test_an_address_that_does_not_answer(engine: str, address: str, code: int, message: str) -> None:
    pytest.importorskip({"dask": "distributed"}.get(engine, engine))
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(CptliteError, match=re.escape(message.format(port=port))) as caught:
            check_engine(engine, address.format(port=port))
    assert caught.value.exit_code == code


def test_what_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(pools, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CptliteError, match=rf"wanted a Dask scheduler at {address}, got no answer \(timed out\)"):
            check_engine("dask", address)


@pytest.mark.slow
def test_a_scheduler_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(pools, "ANSWER_SECONDS", 2.0)
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        check_engine("dask", address)
        with pytest.raises(CptliteError, match=f"wanted Dask workers at {address}, got none: start some with"):
            list(carry_out([os.getpid], engine="dask", scheduler=address))


def test_one_job_runs_here() -> None:
    assert list(carry_out([os.getpid, lambda: 3])) == [(0, os.getpid()), (1, 3)]


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    for name in ("dask", "dask.distributed", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'cptlite\[{engine}\]'"):
        check_engine(engine)
