"""What the flags and the file of ``cptlite sweep`` say: its plan, its runs, and the GPUs that they may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlite.cli.choose import choose_backbone, choose_datasets, choose_suite, usable_caches
from cptlite.errors import UsageError
from cptlite.process import see_gpus

if TYPE_CHECKING:
    from cptlite.cache import CacheFolder
    from cptlite.config import RunConfig
    from cptlite.runs.sweep_plan import SweepPlan

__all__ = ["choose_gpus", "expand_given", "read_given", "spread_gpus"]

MOST_GPUS = 1023  # the highest number that is taken


def read_given(file: Path | None, flags: dict[str, Any], settings: Sequence[str]) -> SweepPlan:
    """Put a plan's file and the flags together; of data, shots and each option the flags' alone where they say any."""
    from cptlite.runs.sweep_plan import SweepPlan, read_plan

    table = read_plan(file) if file else {}
    if flags.get("suites") or flags.get("datasets"):
        table = {name: value for name, value in table.items() if name not in ("suites", "datasets")}
    told = {}
    for text in settings:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise UsageError(f"--set: wanted an option and its values, such as lr=0.002,0.02, got {text!r}")
        told[name.strip()] = [value.strip() for value in values.split(",")]
    given = table.get("set", {})
    if isinstance(given, dict):
        table = {**table, "set": {**given, **told}}
    return SweepPlan.from_table({**table, **{name: value for name, value in flags.items() if value}}, str(file or ""))


def expand_given(plan: SweepPlan, folder: CacheFolder) -> tuple[SweepPlan, list[RunConfig]]:
    """Complete a plan with what is cached, and make its runs."""
    from cptlite.datasets import load_catalog
    from cptlite.runs.seen import leave_one_out
    from cptlite.runs.sweep import opened_caches
    from cptlite.runs.sweep_plan import expand

    cached = usable_caches(folder)
    chosen = choose_backbone(cached, plan.backbone or None, folder.path)
    catalog, names = load_catalog(), cached[chosen]
    if plan.suites and not plan.datasets:
        on = [(suite, choose_datasets(names, [suite], catalog, chosen)) for suite in plan.suites]
    else:
        datasets = choose_datasets(names, plan.datasets, catalog, chosen)
        suite = plan.suites[0] if plan.suites else choose_suite(datasets, catalog)
        on, plan = [(suite, datasets)], replace(plan, datasets=datasets, suites=(suite,))
    configs = []
    for config in expand(plan, on, chosen):
        tasks = []
        if config.held_out_tasks:
            with opened_caches(config, folder.path) as caches:
                tasks = [task for cache in caches for task in cache.tasks]
        configs += leave_one_out(config, tasks)
    return replace(plan, backbone=chosen), configs


def choose_gpus(words: str, scheduler: str) -> tuple[int, ...]:
    """Let this process and its workers see the GPUs that are wanted alone; their numbers."""
    from cptlite.runs.sweep_plan import whole_numbers

    if not words:
        return ()
    if scheduler:
        raise UsageError(f"--gpus chooses among those of this machine, got --scheduler {scheduler} too: leave one out")
    numbers = whole_numbers("gpus", words, MOST_GPUS, {})
    see_gpus(numbers)
    return numbers


def spread_gpus(device: str, wanted: Sequence[int]) -> tuple[str, ...]:
    """Name the GPUs of the workers, and refuse to go on without those that are wanted."""
    from cptlite.environment import visible_gpus

    gpus = visible_gpus(device)
    if wanted and len(gpus) != len(wanted):
        raise UsageError(
            f"--gpus: wanted {', '.join(map(str, wanted))}, got {len(gpus) or 'none'} of them for device {device}: "
            f"give numbers that `nvidia-smi -L` lists, and no other device"
        )
    return gpus
