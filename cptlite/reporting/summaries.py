"""Many results in, one mean and standard deviation per method and number of shots out.

A result is the flat dictionary of a run's ``results.json``; accuracies are in [0, 1]. Standard
deviations are over seeds, with divisor ``n - 1``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cptlite.errors import DataError
from cptlite.metrics import mean_and_std
from cptlite.training.recipe import PAPER

__all__ = [
    "Result",
    "Summary",
    "group_results",
    "load_results",
    "method_label",
    "run_seconds",
    "run_shots",
    "seeds_label",
    "shots_label",
    "summarize",
]

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The runs of one method at one number of shots, over their seeds.

    Attributes
    ----------
    method : str
        Label of method and variant.
    shots : int
        Training images per class; 0 for a method that uses none.
    mean, std : float
        Of the suite score, in [0, 1]; ``std`` is the sample one, 0.0 for a single run.
    seeds : tuple of int
        Sorted seeds of the runs.
    parameters : int
        Learnable parameters.
    seconds : float
        Mean over the runs of the seconds a run took, all phases together.
    """

    method: str
    shots: int
    mean: float
    std: float
    seeds: tuple[int, ...]
    parameters: int
    seconds: float


def method_label(result: Result) -> str:
    """Name of the method, with its variant where it has one and a recipe that is not the paper's: ``softcpt-nata``."""
    recipe = result.get("recipe", PAPER)
    words = (result["method"], result.get("variant"), None if recipe == PAPER else recipe)
    return "-".join(word for word in words if word)


def run_shots(result: Result) -> int:
    """Training images per class of a run; 0 for zero-shot, whatever number it was given."""
    return 0 if result["method"] == "zeroshot" else int(result["shots"])


def run_seconds(result: Result) -> float:
    """Seconds of a run, all phases together."""
    seconds = result.get("seconds") or {}
    return float(seconds.get("total", sum(seconds.values())))


def load_results(paths: Iterable[Path]) -> list[Result]:
    """Read the results of every finished run in some folders.

    Parameters
    ----------
    paths : iterable of Path
        Folders to look in at any depth, or ``results.json`` files.

    Returns
    -------
    list of mapping
        In order of path.

    Raises
    ------
    DataError
        There are none, or a file is not one of results.
    """
    paths = list(paths)
    files = [file for path in paths for file in ([path] if path.is_file() else _results_in(path))]
    if not files:
        raise DataError(
            f"no results.json of a finished run lies in {', '.join(map(str, paths))}. Make one with: cptlite train"
        )
    return [_read_result(file) for file in files]


def _results_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("results.json"))


def _read_result(file: Path) -> Result:
    wanted = ("method", "suite", "shots", "seed", "tasks", "suite_score")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}). Train that run again.") from error
    missing = [key for key in wanted if not isinstance(result, dict) or key not in result]
    if missing:
        raise DataError(f"{file} holds no results of a run: it lacks {', '.join(missing)}.")
    return result


def group_results(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Split results into groups that may stand in one table, in order of first appearance.

    Parameters
    ----------
    results : iterable of mapping
        Results of any suites, sets of tasks and backbones.

    Returns
    -------
    dict of str to list
        Results with the same tasks and backbone, by a title that tells the groups apart.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        key = (result["suite"], result.get("backbone", ""), tuple(sorted(result["tasks"])))
        groups.setdefault(key, []).append(result)
    titled: dict[str, list[Result]] = {}
    for (suite, backbone, tasks), group in groups.items():
        count = f"{len(tasks)} task{'s' if len(tasks) != 1 else ''}"
        title = f"{suite}, {count}" + (f", backbone {backbone}" if backbone else "")
        while title in titled:
            title += " (others)"
        titled[title] = group
    return titled


def summarize(results: Iterable[Result]) -> list[Summary]:
    """Mean and standard deviation over seeds per method and number of shots.

    Parameters
    ----------
    results : iterable of mapping
        Results over the same tasks and backbone. Of two with the same method, shots and seed the
        last counts.

    Returns
    -------
    list of Summary
        Methods without shots first, then by their mean at the most shots, the best last; shots ascending.
    """
    runs: dict[str, dict[int, dict[int, Result]]] = {}  # method -> shots -> seed
    for result in results:
        by_shots = runs.setdefault(method_label(result), {})
        by_shots.setdefault(run_shots(result), {})[int(result["seed"])] = result
    methods = [
        [_summary(method, shots, by_seed) for shots, by_seed in sorted(by_shots.items())]
        for method, by_shots in runs.items()
    ]
    methods.sort(key=lambda line: (line[-1].shots > 0, line[-1].mean, line[-1].method))
    return [summary for line in methods for summary in line]


def _summary(method: str, shots: int, by_seed: Mapping[int, Result]) -> Summary:
    mean, std = mean_and_std([result["suite_score"] for result in by_seed.values()])
    return Summary(
        method=method,
        shots=shots,
        mean=mean,
        std=std,
        seeds=tuple(sorted(by_seed)),
        parameters=max(int(result.get("parameters") or 0) for result in by_seed.values()),
        seconds=mean_and_std([run_seconds(result) for result in by_seed.values()])[0],
    )


def shots_label(shots: int) -> str:
    """Write a number of shots: ``no shots``, ``1 shot``, ``16 shots``."""
    return "no shots" if shots == 0 else f"{shots} shot{'s' if shots != 1 else ''}"


def seeds_label(summaries: Iterable[Summary]) -> str:
    """Write how many seeds stand behind figures: ``3 seeds``, ``1 to 3 seeds``."""
    counts = sorted({len(summary.seeds) for summary in summaries if summary.shots} or {1})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{words} seed{'s' if counts[-1] != 1 else ''}"
