"""How far two methods are apart, run by run, and how sure that is; ranks of all methods over tasks.

Runs are paired by seed: both saw the same rows. Differences are of scores in [0, 1].

Axes: L lines of a table, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cptlite.errors import DataError
from cptlite.metrics import mean_and_std, paired_interval
from cptlite.reporting.results import Result, task_score
from cptlite.reporting.summaries import Line

__all__ = [
    "SUITE",
    "SUITE_OVER_TASKS",
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "compare_all",
    "compare_lines",
    "difference",
    "mean_ranks",
    "pair_runs",
    "seeds_needed",
    "shared_shots",
]

Interval = tuple[float, float]

SUITE, SUITE_OVER_TASKS = "suite score", "suite score, over tasks"
RESAMPLES = 9999
LEAST_DIFFERENCE = 1e-12  # what is below it is rounding


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two lines of a table at one number of shots, over one task or all.

    Attributes
    ----------
    what : str
        A task, `SUITE`, or `SUITE_OVER_TASKS`.
    shots : int
        Training images per class, or `ALL_SHOTS`; 0 where neither uses any.
    seeds : tuple of int
        Of both lines.
    one, other : float
        Mean scores over these seeds, in [0, 1].
    difference : float
        ``one - other``.
    interval : tuple of float, optional
        Bootstrap interval of the difference's mean at 95 %: over seeds, of `SUITE_OVER_TASKS` over tasks. None of a
        single one.
    t_interval : tuple of float, optional
        The same by Student's t.
    seeds_needed : int, optional
        See `seeds_needed`; None of a single seed, and over tasks.
    """

    what: str
    shots: int
    seeds: tuple[int, ...]
    one: float
    other: float
    difference: float
    interval: Interval | None
    t_interval: Interval | None
    seeds_needed: int | None


def shared_shots(one: Line, other: Line) -> list[int]:
    """Numbers of shots that two lines can be compared at, ascending; a method without shots goes with any."""
    numbers = [set(line.runs) for line in (one, other)]
    if {0} in numbers:
        return sorted(numbers[0] if numbers[1] == {0} else numbers[1])
    return sorted(numbers[0] & numbers[1])


def pair_runs(one: Line, other: Line, shots: int) -> dict[int, tuple[Result, Result]]:
    """Put the runs of two lines at one number of shots together, by the seeds that both have.

    A method without shots has no draws of rows either: where seeds differ, its first run goes with any of the other's.
    """
    ones, others = (line.runs.get(shots if shots in line.runs else 0, {}) for line in (one, other))
    if not ones.keys() >= others.keys() and set(one.runs) == {0}:
        ones = dict.fromkeys(others, next(iter(ones.values())))
    elif not others.keys() >= ones.keys() and set(other.runs) == {0}:
        others = dict.fromkeys(ones, next(iter(others.values())))
    return {seed: (ones[seed], others[seed]) for seed in sorted(ones.keys() & others.keys())}


def difference(line: Line, base: Line, shots: int) -> tuple[float, float, int] | None:
    """Work out how far the suite score of a line is from another's: mean, sample deviation and number of paired seeds.

    None of a line and itself, and where no runs pair up.
    """
    if line is base or shots not in shared_shots(line, base):
        return None
    pairs = pair_runs(line, base, shots).values()
    if not pairs:
        return None
    return *mean_and_std([one["suite_score"] - other["suite_score"] for one, other in pairs]), len(pairs)


def compare_all(one: Line, other: Line) -> list[list[Comparison]]:
    """Compare two lines of a table at every number of shots at which they have runs of the same seeds.

    Raises
    ------
    DataError
        There is none.
    """
    compared = [compare_lines(one, other, shots) for shots in shared_shots(one, other) if pair_runs(one, other, shots)]
    if not compared:
        raise DataError(
            f"wanted runs of the same shots and seeds, found none that {one.label} and {other.label} share: train some"
        )
    return compared


def compare_lines(one: Line, other: Line, shots: int) -> list[Comparison]:
    """Compare two lines of a table at one number of shots, paired by seed.

    Parameters
    ----------
    one, other : Line
        Over the same tasks.
    shots : int
        One of `shared_shots`, at which both have a seed.

    Returns
    -------
    list of Comparison
        By task, then `SUITE`, then, of several tasks, `SUITE_OVER_TASKS`: the differences of the tasks, each a mean
        over seeds, as a sample of tasks. Where classes are new, the score of a suite is no mean of its tasks', and that
        last one is of the mean.
    """
    pairs = pair_runs(one, other, shots)
    seeds = tuple(pairs)
    tasks = list(next(iter(pairs.values()))[0]["tasks"])
    by_task = {
        task: tuple([task_score(run["tasks"][task]) for run in runs] for runs in zip(*pairs.values(), strict=True))
        for task in tasks
    }
    suite = tuple([float(run["suite_score"]) for run in runs] for runs in zip(*pairs.values(), strict=True))
    compared = [_compare(what, shots, seeds, *scores) for what, scores in {**by_task, SUITE: suite}.items()]
    if len(tasks) > 1:
        means = tuple([mean_and_std(by_task[task][side])[0] for task in tasks] for side in (0, 1))
        compared.append(_compare(SUITE_OVER_TASKS, shots, seeds, *means, over_seeds=False))
    return compared


def _compare(
    what: str,
    shots: int,
    seeds: tuple[int, ...],
    ones: Sequence[float],
    others: Sequence[float],
    *,
    over_seeds: bool = True,
) -> Comparison:
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    several = len(differences) > 1
    return Comparison(
        what=what,
        shots=shots,
        seeds=seeds,
        one=mean_and_std(ones)[0],
        other=mean_and_std(others)[0],
        difference=mean_and_std(differences)[0],
        interval=bootstrap_interval(ones, others) if several else None,
        t_interval=paired_interval(ones, others)[1:] if several else None,
        seeds_needed=seeds_needed(differences) if several and over_seeds else None,
    )


def bootstrap_interval(ones: Sequence[float], others: Sequence[float]) -> Interval:
    """Bootstrap the mean of paired differences: its interval at 95 %, by percentiles.

    Parameters
    ----------
    ones, others : sequence of float
        Values that belong together, at least two of each.

    Returns
    -------
    low, high : float
        Of ``ones - others``; the same each time, by a generator of its own.

    Notes
    -----
    Of n pairs there are few means to be drawn, 10 of three and 126 of five, none beyond the smallest and the largest
    difference: the interval of so few is too short. Efron and Tibshirani, "An Introduction to the Bootstrap" (1993).
    """
    from scipy.stats import bootstrap

    def mean_difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(first - second, axis=axis)

    found = bootstrap(
        (np.asarray(ones, dtype=np.float64), np.asarray(others, dtype=np.float64)),
        mean_difference,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def seeds_needed(differences: Sequence[float]) -> int | None:
    """Find how many seeds put zero outside the 95 % interval by Student's t, if mean and deviation stay as observed.

    Parameters
    ----------
    differences : sequence of float
        Of paired runs, by seed; at least two.

    Returns
    -------
    int or None
        The smallest number n from two on with ``t(0.975, n - 1) * std / sqrt(n) < abs(mean)``; None where the mean is
        zero.
    """
    from scipy.stats import norm, t

    mean, std = mean_and_std(differences)
    if abs(mean) < LEAST_DIFFERENCE:
        return None
    count = max(2, int((float(norm.ppf(0.975)) * std / mean) ** 2))  # by the normal, which asks for fewer
    while float(t.ppf(0.975, count - 1)) * std / count**0.5 >= abs(mean):
        count += 1
    return count


def mean_ranks(lines: Sequence[Line], shots: int) -> dict[int, float]:
    """Rank lines of a table within each task by their mean score over seeds, and average the ranks over tasks.

    Parameters
    ----------
    lines : sequence of Line
        L, over the same tasks.
    shots : int
        Lines without shots are ranked beside those with this many.

    Returns
    -------
    dict of int to float
        Mean rank of each line that has such runs, by its place; 1 is the best, equal scores share their mean rank.
    """
    from scipy.stats import rankdata

    runs = {place: line.runs.get(shots) or line.runs.get(0) for place, line in enumerate(lines)}
    ranked = {place: list(by_seed.values()) for place, by_seed in runs.items() if by_seed}
    if not ranked:
        return {}
    tasks = list(next(iter(ranked.values()))[0]["tasks"])
    means = [
        [mean_and_std([task_score(result["tasks"][task]) for result in results])[0] for task in tasks]
        for results in ranked.values()
    ]  # (L, T)
    ranks = rankdata(-np.round(means, 12), axis=0)  # (L, T)
    return dict(zip(ranked, np.mean(ranks, axis=1).tolist(), strict=True))
