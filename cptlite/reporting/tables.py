"""Tables as words first, drawn on the terminal second. Figures are in percent here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cptlite.reporting.choosing import find_line
from cptlite.reporting.comparing import difference
from cptlite.reporting.results import (
    Result,
    held_out_tasks,
    method_label,
    run_parts,
    run_seconds,
    run_shots,
)
from cptlite.reporting.summaries import Line, Summary, line_up, seeds_label, shots_label

__all__ = ["Table", "duration", "method_task_table", "run_table", "summary_table"]

DIFFERENCE = "Δ"
METRIC_NAMES = {"acc1": "accuracy", "mean_per_class_recall": "class recall"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as words, before any terminal or page draws it.

    Attributes
    ----------
    title : str
        One line above the table.
    columns : tuple of str
        Headings.
    rows : tuple of tuple of str
        One word per column.
    best : frozenset of (int, int)
        Row and column of the words to stress.
    caption : str
        Below the table, or nothing.
    words : tuple of int
        Columns that hold words and start at the left; the others hold figures and end at the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    caption: str = ""
    words: tuple[int, ...] = (0,)


def run_table(result: Result) -> Table:
    """One row per task of a single run: the score that counts, and both metrics.

    Parameters
    ----------
    result : mapping
        One run.

    Returns
    -------
    Table
        The last row is the suite's score, stressed. From base to new classes, the scores are those of the two halves;
        tasks that were held out stand after the others.
    """
    halved = "harmonic" in result
    columns, rows, caption = _halves_rows(result) if halved else _task_rows(result)
    facts = (method_label(result), str(result["suite"]), shots_label(run_shots(result)))
    return Table(
        title=", ".join((*facts, f"seed {result['seed']} (%)")),
        columns=("task", *columns, f"{result.get('split', 'test')} images"),
        rows=tuple(rows),
        best=frozenset({(len(rows) - 1, 3 if halved else 1)}),
        caption=f"{caption}\n{int(result.get('parameters') or 0):,} learned parameters, "
        f"{duration(run_seconds(result))}",
    )


Rows = list[tuple[str, ...]]


def _task_rows(result: Result) -> tuple[tuple[str, ...], Rows, str]:
    """Headings, rows and caption of a run's scores; tasks that were held out last, after the mean of the others."""
    unseen, parts = set(held_out_tasks(result)), run_parts(result)
    rows: dict[bool, Rows] = {False: [], True: []}
    counts = {False: 0, True: 0}
    for task, scores in result["tasks"].items():
        metrics = (_percent(scores[name]) for name in METRIC_NAMES)
        rows[task in unseen].append((task, _percent(scores[scores["metric"]]), *metrics, str(scores["rows"])))
        counts[task in unseen] += int(scores["rows"])
    columns, caption = (
        ("score", *METRIC_NAMES.values()),
        "score: the metric the task reports; the suite's is their mean",
    )
    if not unseen:
        total = ("suite score", _percent(result["suite_score"]), "", "", str(counts[False]))
        return columns, [*rows[False], total], caption
    means = [
        (words, _percent(parts.get(part)), "", "", str(counts[part == "unseen"]))
        for words, part in (("tasks learned from", "seen"), ("tasks held out", "unseen"))
    ]
    held_out = [(f"{task} (held out)", *words) for task, *words in rows[True]]
    seen = [*rows[False], means[0]] if rows[False] else []
    return columns, [*seen, *held_out, means[1]], f"{caption}, over the tasks that were held out"


def _halves_rows(result: Result) -> tuple[tuple[str, ...], Rows, str]:
    """Headings, rows and caption of a run's scores from base to new classes."""

    def words(scores: Mapping[str, Any]) -> tuple[str, ...]:
        names = ("base", "new", "harmonic")
        return tuple(_percent(of.get(name)) for of in (scores, scores.get("generalised") or {}) for name in names)

    rows = [(task, *words(scores), str(scores["rows"])) for task, scores in result["tasks"].items()]
    total = sum(int(scores["rows"]) for scores in result["tasks"].values())
    rows.append(("suite score", *words(result), str(total)))
    columns = ("base", "new", "H", *(f"{name}, all classes" for name in ("base", "new", "H")))
    caption = (
        "base, new: rows of the classes that were learned from, and of the others, each scored over their half, by the "
        "metric\nthe task reports, and over all classes; H: harmonic mean; the suite's is that of its mean base and new"
    )
    return columns, rows, caption


def summary_table(results: Sequence[Result], title: str = "Suite score", against: str = "") -> Table:
    """One row per method and configuration, one column per number of shots: mean and std over seeds.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone.
    title : str
        Goes above the table.
    against : str, optional
        Name of a line, as `find_line` finds it: the others' differences from it have a column at each number of shots.

    Returns
    -------
    Table
        The best mean at each number of shots is stressed. What sets a configuration apart has a column if there is any.
    """
    lines = [(line, line.summaries()) for line in line_up(results)]
    base = find_line([line for line, _ in lines], against) if against else None
    columns = sorted({shots for _, by_shots in lines for shots in by_shots})
    parts = dict.fromkeys(part for _, by_shots in lines for each in by_shots.values() for part in each.parts)
    cells = [(shots, part) for shots in columns for part in parts]
    headings = ["method", "differs"] if any(line.differs for line, _ in lines) else ["method"]
    compared = [shots for shots in columns if base and (shots or columns == [0])]
    rows: list[tuple[str, ...]] = []
    means: dict[tuple[int, int], float] = {}
    for row, (line, by_shots) in enumerate(lines):
        shown = [(by_shots.get(shots), part) for shots, part in cells]
        means |= {
            (row, column): each.parts[part][0]
            for column, (each, part) in enumerate(shown, start=len(headings))
            if each and part in each.parts
        }
        scores = (_mean_and_std(each, part) for each, part in shown)
        learned = max(each.parameters for each in by_shots.values())
        seconds = max(each.seconds for each in by_shots.values())
        said = (line.method, line.differs)[: len(headings)]
        gaps = (_difference(line, base, shots) for shots in compared)
        rows.append((*said, *scores, *gaps, f"{learned:,}", duration(seconds)))
    seeds = seeds_label(summary for _, by_shots in lines for summary in by_shots.values())
    return Table(
        title=f"{title} (%)",
        columns=(
            *headings,
            *(_heading(shots, part) for shots, part in cells),
            *(f"{DIFFERENCE} {shots_label(shots)}" for shots in compared),
            "learned",
            "time",
        ),
        rows=tuple(rows),
        best=_best(means),
        caption=f"mean ± sample standard deviation over {seeds}; learned: "
        "parameters; time: mean of a run at its slowest number of shots"
        + (f"; {DIFFERENCE}: the same of the difference from {base.label}, paired by seed" if base else ""),
        words=tuple(range(len(headings))),
    )


def method_task_table(results: Sequence[Result], shots: int, title: str = "Score per task") -> Table:
    """One row per task, one column per method and configuration, at one number of shots: mean over seeds.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone.
    shots : int
        Methods that use no shots are shown beside those with this many.
    title : str
        Goes above the table.

    Returns
    -------
    Table
        The best mean of each task is stressed.
    """
    lines = line_up(result for result in results if run_shots(result) in (0, shots))
    scores = [summary.tasks for line in lines for summary in line.summaries().values()]  # one number of shots each
    tasks = list(dict.fromkeys(task for by_task in scores for task in by_task))
    means = {
        (column, row): by_task[task][0]
        for column, by_task in enumerate(scores, start=1)
        for row, task in enumerate(tasks)
    }
    columns = range(1, len(scores) + 1)
    return Table(
        title=f"{title} at {shots_label(shots)} (%)",
        columns=("task", *(line.label for line in lines)),
        rows=tuple(
            (task, *(_percent(means.get((column, row))) for column in columns)) for row, task in enumerate(tasks)
        ),
        best=frozenset((row, column) for column, row in _best(means)),
    )


def _best(means: Mapping[tuple[int, int], float]) -> frozenset[tuple[int, int]]:
    """Keys with the largest value among those of the same second index, if there are others."""
    rivals: dict[int, list[float]] = {}
    for (_, group), mean in means.items():
        rivals.setdefault(group, []).append(mean)
    return frozenset(key for key, mean in means.items() if mean == max(rivals[key[1]]) > min(rivals[key[1]]))


def _percent(value: float | None) -> str:
    """Write ``63.2`` for 0.632, nothing for no value."""
    return "" if value is None else f"{100 * value:.1f}"


def _mean_and_std(summary: Summary | None, part: str) -> str:
    if summary is None or part not in summary.parts:
        return ""
    mean, std = map(_percent, summary.parts[part])
    return mean if len(summary.seeds) == 1 else f"{mean} ± {std}"


def _difference(line: Line, base: Line | None, shots: int) -> str:
    """Write how far the suite score is from another line's, over seeds that both have; nothing where there are none."""
    found = difference(line, base, shots) if base else None
    if not found:
        return ""
    mean, std, seeds = found
    return f"{100 * mean:+.1f}" + (f" ± {100 * std:.1f}" if seeds > 1 else "")


def _heading(shots: int, part: str) -> str:
    return shots_label(shots) if part == "score" else f"{shots_label(shots)}: {part}"


def duration(seconds: float) -> str:
    """Write ``12 ms``, ``0.42 s``, ``12.3 s``, ``3 min 20 s`` or ``38 h``."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{seconds / 3600:.0f} h"
