"""Runs that hold out one task each, put together: leave-one-out is one result, of every task as it is when unseen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cptlite.errors import DataError
from cptlite.metrics import suite_score
from cptlite.reporting.configurations import configuration, configuration_key
from cptlite.reporting.results import Result, held_out_tasks, run_seconds

__all__ = ["join_folds"]


def join_folds(results: Iterable[Result]) -> list[Result]:
    """Put runs together that hold out a task each and agree in all else.

    Parameters
    ----------
    results : iterable of mapping

    Returns
    -------
    list of mapping
        A run that holds out no task is as it was. Those that do become results over the tasks they hold out, with
        ``folds``, the tasks of each run, and ``runs``, these; those with one such task in one configuration, shots and
        seed are one. Their ``suite_score`` and ``seen_score`` are means over runs, their seconds sums.

    Raises
    ------
    DataError
        Two runs of one configuration, shots and seed hold out the same task.
    """
    joined: dict[Any, list[Result]] = {}
    for index, result in enumerate(results):
        tasks = held_out_tasks(result)
        joined.setdefault(_fold_key(result, tasks) if tasks else index, []).append(result)
    return [_join(runs) if held_out_tasks(runs[0]) else runs[0] for runs in joined.values()]


def _fold_key(result: Result, tasks: Sequence[str]) -> tuple[Any, ...]:
    told = {name: value for name, value in configuration(result).items() if name != "held_out_tasks"}
    suite = (result["suite"], result.get("backbone"), tuple(sorted(result["tasks"])))
    together = () if len(tasks) == 1 else tuple(tasks)
    return (
        result["method"],
        result.get("variant"),
        configuration_key(told),
        *suite,
        result["shots"],
        result["seed"],
        together,
    )


def _join(runs: Sequence[Result]) -> Result:
    """Make one result of the runs of one configuration, shots and seed."""
    tasks: dict[str, Any] = {}
    for run in runs:
        own = held_out_tasks(run)
        if own[0] in tasks:
            raise DataError(
                f"wanted every task held out once, got two runs of {run['method']} in one configuration that hold out "
                f"{own[0]!r}, with seed {run['seed']}, one of them in {run.get('folder', 'no folder')}: leave it out"
            )
        tasks |= {task: run["tasks"][task] for task in own}
    seen = [run["seen_score"] for run in runs if run.get("seen_score") is not None]
    config = {name: value for name, value in (runs[0].get("config") or {}).items() if name != "held_out_tasks"}
    return {
        **runs[0],
        "config": config,
        "tasks": tasks,
        "folds": sorted(tuple(held_out_tasks(run)) for run in runs),
        "runs": tuple(runs),
        "suite_score": suite_score([run["suite_score"] for run in runs]),
        "seen_score": suite_score(seen) if seen else None,
        "parameters": max(int(run.get("parameters") or 0) for run in runs),
        "seconds": {"total": sum(map(run_seconds, runs))},
    }
