"""The linear probe's search for C by scikit-learn, on one core and on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from cptlite.backbones import Backbone
from cptlite.environment import usable_cores
from cptlite.methods.probes.linear_probe import LinearProbe, LinearProbeOptions
from cptlite.methods.probes.per_task import PerTask
from cptlite.timing.clock import Patience, median_seconds
from cptlite.timing.tasks import make_problem, make_rows

__all__ = ["bench_probe"]

VAL_SHOTS = 4


def bench_probe(
    backbone: Backbone,
    suites: Mapping[str, Mapping[str, Sequence[str]]],
    shots: int,
    patience: Patience,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Time the search over all tasks of each suite.

    Parameters
    ----------
    backbone : Backbone
        Its joint dimension is the length of the features.
    suites : mapping of str to mapping of str to sequence of str
        Class names by task, by suite.
    shots : int
        Training rows per class.
    patience : Patience
        For each number of threads.
    tell : callable
        Told what is being done.

    Yields
    ------
    dict
        ``suite``, ``threads``, ``rows``, ``dim``, ``seconds`` and ``speedup`` over one thread.
    """
    probe = PerTask("linear-probe", LinearProbe, LinearProbeOptions())
    for suite, names in suites.items():
        problem, num_classes = make_problem(backbone, names), sum(map(len, names.values()))
        train, val = (make_rows(backbone, num_classes, count, seed=count) for count in (shots, VAL_SHOTS))
        one = 0.0
        for threads in sorted({1, usable_cores()}):
            tell(f"{suite}, {threads} threads")
            fit = partial(probe.fit, problem, train, val, torch.Generator())
            with threadpool_limits(threads):
                # No warm-up: each of the hundred fits is one for the next.
                seconds = median_seconds(fit, torch.device("cpu"), patience, warm_up=False)
            one = one or seconds
            yield {
                "suite": suite,
                "threads": threads,
                "rows": len(train.labels),
                "dim": backbone.embed_dim,
                "seconds": seconds,
                "speedup": one / seconds,
            }
