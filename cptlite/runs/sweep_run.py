"""A sweep carried out: what is left of it and how long that takes, its runs, and those that came to nothing.

A run that fails ends itself alone. It is tried again by the same sweep, which leaves finished runs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.config import RunConfig, default_options, differ_in_rows_alone, known_options
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError
from cptlite.runs.engines import LOKY, Died, carry_out
from cptlite.runs.estimate import estimate
from cptlite.runs.files import RESULTS
from cptlite.runs.folders import run_folder
from cptlite.runs.progress import GroupCounter, OnProgress, counting
from cptlite.runs.rows import count_rows, short_rows
from cptlite.runs.sweep import count_run_steps, group_runs, opened_caches, run_group
from cptlite.shots import say_shots

__all__ = ["Failure", "Outcome", "Share", "SweepWays", "forecast", "is_filed", "run_sweep", "train_words"]

NUMBER_BYTES = 4  # of a feature in memory


@dataclass(frozen=True, kw_only=True)
class SweepWays:
    """How a sweep is carried out.

    Attributes
    ----------
    cache_dir, out : Path
    engine : str
        One of `cptlite.runs.engines.ENGINES`.
    jobs : int
        Processes at a time; they share this process's threads. One of loky's is this process.
    scheduler : str
    gpus : tuple of str
        As of `carry_out`.
    together : bool
        Train runs that differ in shots and seed alone as an axis of one forward: their numbers move by rounding.
    memory : float
        GiB that the rows of runs that train together may take, of all processes.
    lock : bool
        Hold each run's folder against other processes.
    """

    cache_dir: Path
    out: Path
    engine: str = LOKY
    jobs: int = 1
    scheduler: str = ""
    gpus: tuple[str, ...] = ()
    together: bool = False
    memory: float = 8.0
    lock: bool = True


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a sweep that differs in shots and seed alone.

    Attributes
    ----------
    configs : sequence of RunConfig
    left : sequence of RunConfig
        Those that are not finished.
    seconds : float or None
        What these will take, one after the other; None for a method that is fitted at once.
    problem : str
        What they will fail with, where that is known before they begin.
    warnings : tuple of str
        What is short of the rows that they learn from.
    """

    configs: Sequence[RunConfig]
    left: Sequence[RunConfig]
    seconds: float | None = None
    problem: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that came to nothing, and why."""

    config: RunConfig
    message: str


Outcome = dict[str, Any] | Failure
OpenCaches = Callable[[RunConfig], Sequence[FeatureCache]]


def forecast(
    configs: Sequence[RunConfig], out: Path, load: Callable[[RunConfig], Backbone], open_caches: OpenCaches
) -> Iterator[Share]:
    """Say what is left of a sweep, and time a step of each method in each configuration of which something is left.

    Parameters
    ----------
    configs : sequence of RunConfig
    out : Path
    load : callable
        Gives the backbone of a configuration.
    open_caches : callable
        Gives the caches of a configuration.
    """
    for group in group_runs(configs):
        left = [config for config in group if not is_filed(out, config)]
        share = Share(configs=group, left=left)
        if left:
            try:
                caches = open_caches(left[0])
                found = estimate(left, load(left[0]), caches)
                short = tuple(f"{name}: {line}" for name, lines in short_rows(caches, left).items() for line in lines)
                share = replace(share, seconds=found.steps * found.step_seconds if found else None, warnings=short)
            except CptliteError as error:
                share = replace(share, problem=str(error))
        yield share


def is_filed(out: Path, config: RunConfig) -> bool:
    """Whether a run has results; whether these are sound is found out when they are read."""
    return (run_folder(out, config) / RESULTS).exists()


def run_sweep(configs: Sequence[RunConfig], ways: SweepWays, on_progress: OnProgress | None = None) -> list[Outcome]:
    """Carry out the runs of a sweep; what is finished is read, and what fails fails alone.

    Parameters
    ----------
    configs : sequence of RunConfig
    ways : SweepWays
    on_progress : callable, optional
        Told how far all of it is, from a thread of its own; of engines of other machines nothing.

    Returns
    -------
    list of dict or Failure
        What each ``results.json`` holds, or why there is none, in the order of ``configs``.
    """
    groups = [[config] for config in configs]
    if ways.together:
        groups = [part for group in group_runs(configs) for part in _within_memory(group, ways)]
    threads = max(1, torch.get_num_threads() // ways.jobs)
    outcomes: dict[RunConfig, Outcome] = {}
    with ExitStack() as stack:
        counters: Sequence[GroupCounter | None] = [None] * len(groups)
        if on_progress and ways.engine == LOKY:
            steps = [[_count_steps(config, ways.cache_dir) for config in group] for group in groups]
            fitted = [not group[0].entry.stepped for group in groups]
            counters = stack.enter_context(counting(steps, fitted, on_progress))
        calls = [
            partial(_attempt, group, ways.cache_dir.absolute(), ways.out.absolute(), threads, ways.lock, counter)
            for group, counter in zip(groups, counters, strict=True)
        ]
        left = []
        for place, group in enumerate(groups):
            if all(is_filed(ways.out, config) for config in group):  # read here: no worker has to start for it
                outcomes |= zip(group, calls[place](), strict=True)
            else:
                left.append(place)
        waiting = [calls[place] for place in left]
        named = {name: getattr(ways, name) for name in ("engine", "jobs", "scheduler", "gpus")}
        for number, ended in carry_out(waiting, **named):
            group = groups[left[number]]
            if isinstance(ended, Died):
                ended = [Failure(config=config, message=ended.message) for config in group]
            outcomes |= zip(group, ended, strict=True)
    return [outcomes[config] for config in configs]


def train_words(config: RunConfig) -> list[str]:
    """Words of ``cptlite train`` that make a run, but for where caches and runs lie."""
    words = ["--method", config.method, *(f"--dataset={name}" for name in config.datasets)]
    words += [f"--suite={config.suite}", f"--backbone={config.backbone}"]
    words += [f"--shots={say_shots(config.shots)}", f"--seed={config.seed}"]
    values = {**vars(config), **vars(config.options), **(vars(config.recipe) if config.recipe else {})}
    defaults = default_options(config.method, config.recipe_name)
    for name, option in {each.name: each for _, each in known_options(config.entry)}.items():
        value = values[name]
        usual = "paper" if name == "recipe" else defaults[name]
        if name in ("shots", "seed") or value == usual:
            continue
        if option.kind is bool:
            words.append(f"--{'' if value else 'no-'}{option.flag}")
        else:
            words += [f"--{option.flag}={each}" for each in (value if isinstance(value, tuple) else (value,))]
    return words


def _attempt(
    group: Sequence[RunConfig], cache_dir: Path, out: Path, threads: int, lock: bool, counter: GroupCounter | None
) -> list[Outcome]:
    """Carry out a group of runs; where that fails, each by itself, so that the one that fails fails alone."""
    try:
        return list(run_group(group, cache_dir, out, threads, False, lock, counter))
    except Exception as error:  # whatever it is, the others go on
        if len(group) == 1:
            return [Failure(config=group[0], message=_explain(error))]
    return [outcome for config in group for outcome in _attempt([config], cache_dir, out, threads, lock, None)]


def _explain(error: Exception) -> str:
    if isinstance(error, CptliteError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {shown(error.filename)}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _count_steps(config: RunConfig, cache_dir: Path) -> int:
    try:
        return count_run_steps(config, cache_dir)
    except CptliteError:  # the run will fail with it
        return 1


def _within_memory(group: Sequence[RunConfig], ways: SweepWays) -> Iterator[list[RunConfig]]:
    """Cut a group where the rows of its runs would take more than a process's part of the memory."""
    assert differ_in_rows_alone(group)
    most = ways.memory * 2**30 / ways.jobs
    part: list[RunConfig] = []
    taken = 0.0
    for config in group:
        size = _row_bytes(config, ways.cache_dir)
        if part and taken + size > most:
            yield part
            part, taken = [], 0.0
        part.append(config)
        taken += size
    yield part


def _row_bytes(config: RunConfig, cache_dir: Path) -> float:
    """Bytes of the training rows of a run in memory; 0 where they cannot be counted, which the run will fail with."""
    if not config.entry.needs_rows:
        return 0.0
    try:
        with opened_caches(config, cache_dir) as caches:
            first = caches[0].patches("train", [0]) if config.entry.needs_patches else caches[0].features("train", [0])
            return float(sum(count_rows(caches, config)) * first[0].size * NUMBER_BYTES)
    except CptliteError:
        return 0.0
