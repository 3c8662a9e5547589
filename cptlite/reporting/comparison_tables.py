"""Comparisons and ranks as tables of words; figures are in percent here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cptlite.reporting.comparing import (
    RESAMPLES,
    SUITE_OVER_TASKS,
    Comparison,
    Interval,
    compare_all,
    mean_ranks,
)
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, line_up, shots_label
from cptlite.reporting.tables import Table

__all__ = ["comparison_table", "comparison_tables", "rank_table"]

MOST_SEEDS = 9999
CAPTION = """\
difference: mean of first - second, paired by seed ({seeds}); stressed where both intervals leave zero out
bootstrap: 95 % interval of that mean, percentiles of {resamples} draws of the seeds, too short where they are few
t: the same by Student's t; seeds needed: that put zero outside it, were mean and deviation to stay"""


def comparison_tables(lines: Sequence[Line], title: str) -> Iterator[Table]:
    """One table for each number of shots of `compare_all`: see `comparison_table`."""
    one, other = lines
    for compared in compare_all(one, other):
        yield comparison_table(compared, one.label, other.label, title)


def comparison_table(compared: Sequence[Comparison], one: str, other: str, title: str) -> Table:
    """One row per task, then the suite: both scores, their difference, how sure it is.

    Parameters
    ----------
    compared : sequence of Comparison
        At one number of shots.
    one, other : str
        Names of the two.
    title : str
        What both are over.

    Returns
    -------
    Table
        Differences are stressed where both intervals leave zero out.
    """
    rows = [
        (
            each.what,
            f"{100 * each.one:.1f}",
            f"{100 * each.other:.1f}",
            f"{100 * each.difference:+.1f}",
            _interval(each.interval),
            _interval(each.t_interval),
            _needed(each),
        )
        for each in compared
    ]
    sure = {row for row, each in enumerate(compared) if all(map(_leaves_zero_out, (each.interval, each.t_interval)))}
    return Table(
        title=f"{one} - {other}, {title}, {shots_label(compared[0].shots)} (%)",
        columns=("task", "first", "second", "difference", "bootstrap", "t", "seeds needed"),
        rows=tuple(rows),
        best=frozenset((row, 3) for row in sure),
        caption=_caption(compared),
    )


def _caption(compared: Sequence[Comparison]) -> str:
    seeds = compared[0].seeds
    over_tasks = any(each.what == SUITE_OVER_TASKS for each in compared)
    if len(seeds) == 1:
        said = f"of the one seed {seeds[0]}: no interval over seeds"
        return f"{said}, one over tasks" * over_tasks or said
    caption = CAPTION.format(resamples=f"{RESAMPLES:,}", seeds=", ".join(map(str, seeds)))
    return caption + "\nover tasks: of draws of tasks, each a mean over seeds: of other tasks like these" * over_tasks


def _leaves_zero_out(interval: Interval | None) -> bool:
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _needed(each: Comparison) -> str:
    if each.seeds_needed is None:
        return ""
    return f"{each.seeds_needed:,}" if each.seeds_needed <= MOST_SEEDS else f"over {MOST_SEEDS:,}"


def rank_table(results: Sequence[Result], title: str) -> Table:
    """One row per method and configuration, one column per number of shots: the mean over tasks of its rank.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone.
    title : str

    Returns
    -------
    Table
        The best at most shots first; the best of each column stressed.
    """
    lines = line_up(results)
    columns = sorted({shots for line in lines for shots in line.runs} - {0}) or [0]
    ranks = {shots: mean_ranks(lines, shots) for shots in columns}
    order = sorted(range(len(lines)), key=lambda place: [ranks[s].get(place, len(lines)) for s in reversed(columns)])
    rows = tuple(
        (lines[place].label, *(f"{ranks[shots][place]:.2f}" if place in ranks[shots] else "" for shots in columns))
        for place in order
    )
    best = {
        (row, column)
        for column, shots in enumerate(columns, start=1)
        for row, place in enumerate(order)
        if place in ranks[shots] and ranks[shots][place] == min(ranks[shots].values()) < max(ranks[shots].values())
    }
    tasks = len(results[0]["tasks"])
    return Table(
        title=f"Mean rank, {title}",
        columns=("method", *(f"{shots_label(shots)}, of {len(ranks[shots])}" for shots in columns)),
        rows=rows,
        best=frozenset(best),
        caption=f"within each task by the mean over seeds, 1 the best, equal ones share; mean over {tasks} task"
        f"{'s' * (tasks != 1)}",
    )
