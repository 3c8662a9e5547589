"""Many results in, one mean and standard deviation per method and number of shots out.

Runs are averaged over seeds and nothing else: those of one method that were configured otherwise are lines of their
own. Accuracies are in [0, 1], standard deviations have the divisor ``n - 1``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.metrics import mean_and_std
from cptlite.reporting.configurations import Configuration, configuration, configuration_key, say_differences
from cptlite.reporting.folds import join_folds
from cptlite.reporting.results import Result, method_label, run_parts, run_seconds, run_shots, task_score
from cptlite.shots import read_shots, say_shots

__all__ = ["Line", "Summary", "group_results", "line_up", "seeds_label", "shots_label", "summarize"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The runs of one method in one configuration at one number of shots, over their seeds.

    Attributes
    ----------
    method : str
        Label of method and variant.
    differs : str
        What sets the configuration apart from the method's defaults and from others in the table, or nothing.
    config : mapping
        The configuration but for shots and seed; empty where the runs did not record it.
    shots : int
        Training images per class, or `ALL_SHOTS`; 0 for a method that uses none.
    mean, std : float
        Of the suite score, in [0, 1]; ``std`` is the sample one, 0.0 for a single run.
    parts : mapping of str to (float, float)
        Mean and standard deviation of every score of `run_parts`.
    tasks : mapping of str to (float, float)
        The same of each task's score that counts.
    seeds : tuple of int
        Sorted seeds of the runs.
    parameters : int
        Learnable parameters.
    seconds : float
        Mean over the runs of the seconds a run took, all phases together.
    """

    method: str
    differs: str
    config: Configuration
    shots: int
    mean: float
    std: float
    parts: Mapping[str, tuple[float, float]]
    tasks: Mapping[str, tuple[float, float]]
    seeds: tuple[int, ...]
    parameters: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """The runs of one method in one configuration, at any number of shots.

    Attributes
    ----------
    method, differs, config
        As of `Summary`.
    runs : dict of int to dict of int to mapping
        Results by shots, and by seed.
    """

    method: str
    differs: str
    config: Configuration
    runs: Mapping[int, Mapping[int, Result]]

    @property
    def label(self) -> str:
        """Method, and in brackets what differs."""
        return f"{self.method} ({self.differs})" if self.differs else self.method

    def summaries(self) -> dict[int, Summary]:
        """Mean and standard deviation over seeds by number of shots, ascending."""
        return {shots: self._summary(shots, by_seed) for shots, by_seed in self.runs.items()}

    def _summary(self, shots: int, by_seed: Mapping[int, Result]) -> Summary:
        mean, std = mean_and_std([result["suite_score"] for result in by_seed.values()])
        runs = [run_parts(result) for result in by_seed.values()]
        parts = {name: mean_and_std([run[name] for run in runs if name in run]) for run in runs for name in run}
        of_tasks = [result["tasks"] for result in by_seed.values()]
        tasks = {task: mean_and_std([task_score(of_run[task]) for of_run in of_tasks]) for task in of_tasks[0]}
        return Summary(
            method=self.method,
            differs=self.differs,
            config=self.config,
            shots=shots,
            mean=mean,
            std=std,
            parts=parts,
            tasks=tasks,
            seeds=tuple(sorted(by_seed)),
            parameters=max(int(result.get("parameters") or 0) for result in by_seed.values()),
            seconds=mean_and_std([run_seconds(result) for result in by_seed.values()])[0],
        )


def group_results(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Split results into groups that may stand in one table, in order of first appearance.

    Parameters
    ----------
    results : iterable of mapping
        Results of any suites, sets of tasks and backbones.

    Returns
    -------
    dict of str to list
        Results with the same tasks and backbone, by a title that tells the groups apart. Runs from base to new classes
        are groups of their own, and so are those that hold out tasks, put together by `join_folds`.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in join_folds(results):
        tasks, folds = tuple(sorted(result["tasks"])), tuple(result.get("folds", ()))
        key = (result["suite"], result.get("backbone", ""), tasks, "harmonic" in result, folds)
        groups.setdefault(key, []).append(result)
    titled: dict[str, list[Result]] = {}
    for (suite, backbone, tasks, halved, folds), group in groups.items():
        count = f"{len(tasks)} task{'s' if len(tasks) != 1 else ''}"
        if halved:
            count += ", base to new classes"
        elif folds:
            count = f"unseen: {count}" + ", each left out in turn" * (len(folds) > 1)
        title = f"{suite}, {count}" + (f", backbone {backbone}" if backbone else "")
        while title in titled:
            title += " (others)"
        titled[title] = group
    return titled


def line_up(results: Iterable[Result]) -> list[Line]:
    """Put runs of one method and one configuration together.

    Parameters
    ----------
    results : iterable of mapping
        Results over the same tasks and backbone.

    Returns
    -------
    list of Line
        Methods without shots first, then by their mean at the most shots, the best last; shots ascending.

    Raises
    ------
    DataError
        Two results are of one configuration, shots and seed.
    """
    methods: dict[str, dict[str, list[Result]]] = {}  # label -> configuration -> runs
    for result in results:
        key = configuration_key(configuration(result))
        methods.setdefault(method_label(result), {}).setdefault(key, []).append(result)
    lines = []
    for method, by_key in methods.items():
        configs = [configuration(runs[0]) for runs in by_key.values()]
        for config, differs, runs in zip(configs, say_differences(configs), by_key.values(), strict=True):
            lines.append(Line(method=method, differs=differs, config=config, runs=_by_shots(runs)))
    return sorted(lines, key=_rank)


def _by_shots(results: Iterable[Result]) -> dict[int, dict[int, Result]]:
    """Results of one configuration by ascending shots and by seed, each once."""
    seen: dict[tuple[int, int], Result] = {}
    runs: dict[int, dict[int, Result]] = {}
    for result in results:
        given, seed = read_shots(result["shots"]), int(result["seed"])
        other = seen.setdefault((given, seed), result)
        if other is not result:
            places = " and in ".join(shown(each.get("folder", "no folder")) for each in (other, result))
            raise DataError(
                f"wanted every seed once, got two runs of {method_label(result)} in one configuration with "
                f"{shots_label(given)} and seed {seed}, in {places}: leave one of them out"
            )
        runs.setdefault(run_shots(result), {}).setdefault(seed, result)  # of zero-shot, whatever shots it was given
    return dict(sorted(runs.items()))


def _rank(line: Line) -> tuple[bool, float, str, str]:
    most = list(line.summaries().values())[-1]
    return most.shots > 0, most.mean, line.method, line.differs


def summarize(results: Iterable[Result]) -> list[Summary]:
    """Mean and standard deviation over seeds per line and number of shots, in the order of `line_up`."""
    return [summary for line in line_up(results) for summary in line.summaries().values()]


def shots_label(shots: int) -> str:
    """Write a number of shots: ``no shots``, ``1 shot``, ``16 shots``, ``all shots``."""
    return "no shots" if shots == 0 else f"{say_shots(shots)} shot{'s' if shots != 1 else ''}"


def seeds_label(summaries: Iterable[Summary]) -> str:
    """Write how many seeds stand behind figures: ``3 seeds``, ``1 to 3 seeds``."""
    counts = sorted({len(summary.seeds) for summary in summaries if summary.shots} or {1})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{words} seed{'s' if counts[-1] != 1 else ''}"
