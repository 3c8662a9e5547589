"""Honest seconds and MiB: synchronise, warm up, repeat, median; and the machine's matrix-product rate beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from cptlite.backbones.linear import FrozenLinear, runnable_backends
from cptlite.environment import measure_peak

__all__ = ["MatmulClock", "Patience", "Samples", "median_seconds", "peak_mib", "seconds_of"]

Work = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a measurement ends.

    Attributes
    ----------
    repeats : int
        Timed repeats, at most.
    seconds : float
        No further repeat is begun after this many seconds, but there is always one.
    """

    repeats: int = 10
    seconds: float = 30.0


@dataclass
class Samples:
    """Seconds of repeats of one piece of work."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return median(self.seconds)

    def wants_more(self, patience: Patience) -> bool:
        """Whether another repeat is to be timed."""
        return len(self.seconds) < patience.repeats and sum(self.seconds) < patience.seconds


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds that ``work`` takes, what it leaves running on the GPU included."""
    _synchronise(device)
    started = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - started


def median_seconds(work: Work, device: torch.device, patience: Patience, *, warm_up: bool = True) -> float:
    """Median seconds of ``work``, after one run that is not counted."""
    if warm_up:
        work()
    samples = Samples()
    while not samples.seconds or samples.wants_more(patience):
        samples.seconds.append(seconds_of(work, device))
    return samples.median


def peak_mib(work: Work, device: torch.device) -> tuple[float, float]:
    """Most memory that ``work`` holds at a time on top of what was allocated before, in MiB; and its seconds.

    On the CPU the sum of PyTorch's own allocations, which the profiler records one by one: exact, and untouched by what
    the process keeps from earlier work, as its resident memory is not. What libraries allocate inside an operation is
    not counted.
    """
    if device.type == "cuda":
        _synchronise(device)
        before = torch.cuda.memory_allocated(device) / 2**20
        with measure_peak(device) as peak:
            seconds = seconds_of(work, device)
        assert peak.mib is not None
        return peak.mib - before, seconds
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:  # else some warn
        seconds = seconds_of(work, device)
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**20, seconds


class MatmulClock:
    """How fast this machine multiplies matrices of a transformer's shapes, measured again and again beside the work.

    By whichever linear backend is faster.

    Parameters
    ----------
    rows, width : int
        The product is (rows, W) by (W, 4W).
    dtype : torch.dtype
    device : torch.device
    seconds : float
        Least duration of a burst of products.
    """

    def __init__(
        self, *, rows: int, width: int, dtype: torch.dtype, device: torch.device, seconds: float = 0.2
    ) -> None:
        left = torch.randn(rows, width, device=device).to(dtype)
        weight, bias = torch.randn(4 * width, width, device=device).to(dtype), torch.zeros(4 * width).to(left)
        layers = [FrozenLinear(weight, bias, backend) for backend in runnable_backends(device, dtype)]
        self._device = device
        self._flops = 2 * rows * width * 4 * width
        self.rates: list[float] = []
        took = {}
        for layer in layers:
            self._multiply = partial(layer, left)
            self._products = 1
            seconds_of(self._burst, device)  # warm-up
            self._products = max(1, round(seconds / seconds_of(self._burst, device)))
            took[seconds_of(self._burst, device) / self._products] = (self._multiply, self._products)
        self._multiply, self._products = took[min(took)]

    def tick(self) -> float:
        """Time one burst; its rate in FLOP/s."""
        self.rates.append(self._products * self._flops / seconds_of(self._burst, self._device))
        return self.rates[-1]

    @property
    def rate(self) -> float:
        """Median rate of all bursts, in FLOP/s."""
        return median(self.rates)

    def _burst(self) -> None:
        for _ in range(self._products):
            self._multiply()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
