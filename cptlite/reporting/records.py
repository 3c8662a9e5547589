"""What tables say, as data: flat tables that become JSON, scores in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cptlite.reporting.choosing import find_line
from cptlite.reporting.comparing import compare_all, difference, mean_ranks
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, line_up
from cptlite.shots import say_shots

__all__ = ["comparison_records", "summary_records"]


def summary_records(
    results: Sequence[Result], title: str, against: str = "", ranks: bool = False
) -> Iterator[dict[str, Any]]:
    """One table for each method, configuration and number of shots.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone.
    title : str
        Of their group.
    against : str, optional
        Name of a line: ``difference`` is how far the others are from it, over seeds that both have.
    ranks : bool
        Whether ``mean_rank`` over tasks is there too.
    """
    lines = line_up(results)
    base = find_line(lines, against) if against else None
    for place, line in enumerate(lines):
        for shots, summary in line.summaries().items():
            record = {"group": title, **asdict(summary), "shots": say_shots(shots)}
            if base and (found := difference(line, base, shots)):
                record["difference"] = {"from": base.label, **dict(zip(("mean", "std", "seeds"), found, strict=True))}
            if ranks:
                record["mean_rank"] = mean_ranks(lines, shots)[place]
            yield record


def comparison_records(lines: Sequence[Line], title: str) -> Iterator[dict[str, Any]]:
    """One table for each number of shots, and each task, the suite and the suite over tasks; of two lines."""
    one, other = lines
    for compared in compare_all(one, other):
        for each in compared:
            yield {
                "group": title,
                "one_method": one.label,
                "other_method": other.label,
                **asdict(each),
                "shots": say_shots(each.shots),
            }
