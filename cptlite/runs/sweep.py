"""Many runs: a grid of configurations carried out by joblib's workers.

Runs are independent and end in files of their own, so workers share nothing but the folders; a finished run is not
done again, which makes a sweep resumable. Runs that differ in shots and seed alone can be one job, trained together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from joblib import delayed

from cptlite.backbones import Backbone, backbone_slug, load_backbone
from cptlite.cache import CacheFolder, FeatureCache, open_cache
from cptlite.cache.format import cache_path
from cptlite.config import RunConfig, differ_in_rows_alone, resolve_config, share_options
from cptlite.environment import usable_cores
from cptlite.runs.execute import execute_runs
from cptlite.runs.progress import FINISHED, STEPS, GroupCounter, OnProgress, counting
from cptlite.runs.rows import count_steps
from cptlite.runs.sources import pinned
from cptlite.runs.workers import make_workers

__all__ = ["count_run_steps", "grid", "group_runs", "opened_caches", "run_all", "run_group", "shared_backbone"]


def grid(
    given: Mapping[str, Any], *, methods: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> list[RunConfig]:
    """Every combination of methods, shots and seeds on top of given options, most expensive first.

    An option that some of the methods have is given to these alone; what is not given takes each method's default.
    """
    shared = share_options(given, methods)
    ordered = product(sorted(shots, reverse=True), reversed(methods), seeds)
    return [
        pinned(resolve_config({**shared[method], "method": method, "shots": number, "seed": seed}))
        for number, method, seed in ordered
    ]


def run_all(
    configs: Iterable[RunConfig],
    *,
    cache_dir: Path,
    out: Path,
    jobs: int = 1,
    together: bool = False,
    force: bool = False,
    lock: bool = True,
    on_progress: OnProgress | None = None,
) -> list[dict[str, Any]]:
    """Carry out runs, several at a time.

    Parameters
    ----------
    configs : iterable of RunConfig
    cache_dir, out : Path
    jobs : int
        Worker processes; each gets an equal share of the cores. 1 runs here.
    together : bool
        Train runs that differ in shots and seed alone as an axis of one forward.
    force : bool
        Replace runs that are there.
    lock : bool
        Hold each run's folder against other processes; False where its file system has no locks.
    on_progress : callable, optional
        Told how far all of it is, twice a second, from a thread of its own.

    Returns
    -------
    list of dict
        Results in the order of ``configs``.
    """
    configs = list(configs)
    groups = group_runs(configs) if together else [[config] for config in configs]
    threads = max(1, usable_cores() // jobs)
    results: dict[RunConfig, dict[str, Any]] = {}
    with ExitStack() as stack:
        counters: Sequence[GroupCounter | None] = [None] * len(groups)
        if on_progress:
            steps = [[count_run_steps(config, cache_dir) for config in group] for group in groups]
            fitted = [not group[0].entry.stepped for group in groups]
            counters = stack.enter_context(counting(steps, fitted, on_progress))
        tasks = (
            delayed(run_group)(group, cache_dir, out, threads, force, lock, counter)
            for group, counter in zip(groups, counters, strict=True)
        )
        for group, done in zip(groups, make_workers(jobs)(tasks), strict=True):
            results |= zip(group, done, strict=True)
    return [results[config] for config in configs]


@contextmanager
def opened_caches(config: RunConfig, cache_dir: Path) -> Iterator[list[FeatureCache]]:
    """Open the caches of a run, whose backbone need not be loaded."""
    with ExitStack() as stack:
        paths = [cache_path(cache_dir, backbone_slug(config.backbone), name) for name in config.datasets]
        yield [stack.enter_context(open_cache(path)) for path in paths]


def count_run_steps(config: RunConfig, cache_dir: Path) -> int:
    """Count the steps of a run from the labels in its caches, where it has any."""
    if not config.entry.stepped:
        return 1
    with opened_caches(config, cache_dir) as caches:
        return count_steps(caches, config)


def group_runs(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Put runs that can train together side by side, in the order of each group's first."""
    groups: list[list[RunConfig]] = []
    for config in configs:
        home = next((group for group in groups if differ_in_rows_alone([group[0], config])), None)
        if home is None:
            groups.append([config])
        else:
            home.append(config)
    return groups


def run_group(
    configs: Sequence[RunConfig],
    cache_dir: Path,
    out: Path,
    threads: int,
    force: bool,
    lock: bool,
    counter: GroupCounter | None,
) -> list[dict[str, Any]]:
    """Carry out runs that differ in shots and seed alone, in one forward, on so many threads of this process.

    Parameters
    ----------
    configs : sequence of RunConfig
    cache_dir, out : Path
    threads : int
    force, lock : bool
        As of `run_all`.
    counter : GroupCounter, optional
        Counts the steps, and that all is done.

    Returns
    -------
    list of dict
        As of `execute_runs`.
    """
    before = torch.get_num_threads()  # with one job this is the caller's own process
    torch.set_num_threads(threads)
    counted = counter.open() if counter else None

    def count(column: int, number: int) -> None:
        if counted is not None:
            counted[column] = number

    try:
        first = configs[0]
        backbone = shared_backbone(first.backbone, first.device, first.precision, first.linear_backend)
        with CacheFolder(cache_dir, backbone.slug) as folder:
            caches = folder.open(backbone, configs[0].datasets)
            tell = partial(count, STEPS)
            results = execute_runs(configs, backbone, caches, out=out, force=force, lock=lock, on_step=tell)
        count(FINISHED, 1)
        return results
    finally:
        torch.set_num_threads(before)


@cache
def shared_backbone(name: str, device: str, precision: str, linear_backend: str) -> Backbone:
    """One backbone a worker process: loading takes as long as a small run."""
    return load_backbone(name, device=device, precision=precision, linear_backend=linear_backend)
