"""Many runs: a grid of configurations carried out by joblib's workers.

Runs are independent and end in files of their own, so workers share nothing but the folders; a finished run is not
done again, which makes a sweep resumable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from cptlite.backbone import Backbone, load_backbone
from cptlite.config import TrainConfig
from cptlite.methods.table import resolve_config
from cptlite.run import execute_run

__all__ = ["grid", "run_all"]


def grid(
    given: Mapping[str, Any], *, methods: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> list[TrainConfig]:
    """Every combination of methods, shots and seeds on top of given fields, most expensive first.

    Fields that are not given take each method's own defaults.
    """
    ordered = product(sorted(shots, reverse=True), reversed(methods), seeds)
    return [
        resolve_config({**given, "method": method, "shots": number, "seed": seed}) for number, method, seed in ordered
    ]


def run_all(
    configs: Iterable[TrainConfig],
    *,
    cache_dir: Path,
    out: Path,
    jobs: int = 1,
    on_run: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Carry out runs, several at a time.

    Parameters
    ----------
    configs : iterable of TrainConfig
    cache_dir, out : Path
    jobs : int
        Worker processes; each gets an equal share of the cores. 1 runs here.
    on_run : callable, optional
        Told the results of each run as it ends, in the order of ``configs``.

    Returns
    -------
    list of dict
        Results in the order of ``configs``.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    tasks = (delayed(_run_one)(config, cache_dir, out, threads) for config in configs)
    results = []
    for result in Parallel(n_jobs=jobs, return_as="generator")(tasks):
        results.append(result)
        if on_run:
            on_run(result)
    return results


def _run_one(config: TrainConfig, cache_dir: Path, out: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    backbone = _shared_backbone(config.backbone, config.device, config.precision)
    return execute_run(config, backbone, cache_dir=cache_dir, out=out)


@cache
def _shared_backbone(name: str, device: str, precision: str) -> Backbone:
    """One backbone a worker process: loading takes as long as a small run."""
    return load_backbone(name, device=device, precision=precision)
