"""The paper's table and ours in one; figures are in percent here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.reporting.paper import (
    PAPER_SHOTS,
    PaperRow,
    average_score,
    find_row,
    paper_suite,
    read_paper,
    why_not_comparable,
)
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, line_up, shots_label
from cptlite.reporting.tables import Table, duration
from cptlite.shots import say_shots

__all__ = ["of_the_paper", "paper_records", "paper_table"]


def of_the_paper(groups: Mapping[str, list[Result]]) -> dict[str, list[Result]]:
    """Keep the groups that are over a suite of the paper, or a part of one.

    Raises
    ------
    DataError
        None is.
    """
    kept = {title: results for title, results in groups.items() if paper_suite(results)}
    if not kept:
        raise DataError(
            f"wanted runs on a suite of the paper ({', '.join(read_paper())}), found {', '.join(map(shown, groups))}: "
            "give others, or leave --paper out"
        )
    return kept


def paper_table(results: Sequence[Result], title: str) -> Table:
    """Set a suite of the paper beside ours: its row, ours below it, and the difference.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone, of a group of `of_the_paper`.
    title : str

    Returns
    -------
    Table
        Every row of the paper, with or without ours; why a row of ours is not comparable has a number, explained in the
        caption.
    """
    suite = paper_suite(results)
    paper, lines = read_paper()[suite], line_up(results)
    found = [(line, find_row(line, paper)) for line in lines]
    why: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for row in paper.values():
        rows.append(_paper_row(row))
        for line in (line for line, own in found if own is row):
            marks = [why.setdefault(words, len(why) + 1) for words in why_not_comparable(line, row)]
            rows += [_our_row(line, marks), _difference(line, row)]
    without = [line.label for line, own in found if own is None]
    caption = ["mean ± sample standard deviation over seeds, here; the paper does not say of which kind its are"]
    caption += [f"{number}: {words}" for words, number in why.items()]
    caption += [f"not in the paper's table: {', '.join(without)}"] if without else []
    return Table(
        title=f"The paper's {suite} beside {title} (%)",
        columns=("method", "of", *map(shots_label, PAPER_SHOTS), "average", "learned", "time", "not comparable"),
        rows=tuple(rows),
        caption="\n".join(caption),
        words=(0, 1, len(PAPER_SHOTS) + 5),
    )


def _paper_row(row: PaperRow) -> tuple[str, ...]:
    scores = (_score(*row.scores[shots]) if shots in row.scores else "" for shots in PAPER_SHOTS)
    learned = "" if row.parameters is None else f"{row.parameters:,}"
    time = "" if row.minutes is None else duration(60 * row.minutes)
    return (row.method, "paper", *scores, f"{100 * row.average[0]:.1f}", learned, time, "")


def _our_row(line: Line, marks: Sequence[int]) -> tuple[str, ...]:
    summaries = line.summaries()
    scores = (
        _score(summaries[shots].mean, summaries[shots].std if len(summaries[shots].seeds) > 1 else None)
        if shots in summaries
        else ""
        for shots in PAPER_SHOTS
    )
    average = average_score(summaries)
    learned = max(summary.parameters for summary in summaries.values())
    seconds = max(summary.seconds for summary in summaries.values())
    said = "" if average is None else f"{100 * average:.1f}"
    return (line.label, "here", *scores, said, f"{learned:,}", duration(seconds), " ".join(map(str, marks)))


def _difference(line: Line, row: PaperRow) -> tuple[str, ...]:
    summaries = line.summaries()
    both = {shots: summaries[shots].mean - row.scores[shots][0] for shots in row.scores if shots in summaries}
    average = average_score(summaries)
    gaps = (f"{100 * both[shots]:+.1f}" if shots in both else "" for shots in PAPER_SHOTS)
    return ("", "difference", *gaps, "" if average is None else f"{100 * (average - row.average[0]):+.1f}", "", "", "")


def _score(mean: float, std: float | None) -> str:
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def paper_records(results: Sequence[Result], title: str) -> Iterator[Mapping[str, Any]]:
    """Ours beside the paper's as data: one mapping for each line that has a row there, and number of shots."""
    suite = paper_suite(results)
    paper = read_paper()[suite]
    found = ((line, find_row(line, paper)) for line in line_up(results))
    for line, row in ((line, row) for line, row in found if row):
        why = why_not_comparable(line, row)
        for shots, summary in line.summaries().items():
            theirs = row.scores.get(shots) if shots else row.average
            yield {
                "group": title,
                "suite": suite,
                "method": line.method,
                "differs": line.differs,
                "shots": say_shots(shots),
                "mean": summary.mean,
                "std": summary.std,
                "seeds": summary.seeds,
                "paper": {"method": row.method, "mean": theirs and theirs[0], "std": theirs and theirs[1]},
                "difference": summary.mean - theirs[0] if theirs else None,
                "not_comparable": why,
            }
