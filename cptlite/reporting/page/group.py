"""What a page works with of runs that may stand in one table: lines, their marks, and where a figure leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cptlite.reporting.configurations import configuration_key
from cptlite.reporting.page.charts import COLOURS, SYMBOLS, few_shot_numbers
from cptlite.reporting.page.markup import attributes
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, line_up
from cptlite.shots import say_shots

__all__ = ["Charts", "Group", "behind"]

FLAT_MARK = (
    '<svg class="mark" viewBox="-1.2 -1.2 2.4 2.4" aria-hidden="true"><path class="flat" d="M-1.2,0H1.2"/></svg>'
)


@dataclass
class Charts:
    """What the page's script draws: kinds of chart by name, and each chart's kind and data."""

    specs: dict[str, Any] = field(default_factory=dict)
    charts: list[dict[str, Any]] = field(default_factory=list)

    def place(self, spec: str, data: Any, *, kind: str, label: str) -> str:
        """Add a chart; return the element that it is drawn into."""
        self.charts.append({"spec": spec, "data": data})
        said = attributes(class_=f"chart {kind}", data_chart=str(len(self.charts) - 1), role="img", aria_label=label)
        return f"<div{said}></div>"


@dataclass(frozen=True)
class Group:
    """Runs over the same tasks and backbone.

    Attributes
    ----------
    number : int
        From 1, on the page.
    title : str
    results : sequence of mapping
    lines : list of Line
        In the order of all tables.
    """

    number: int
    title: str
    results: Sequence[Result]
    lines: list[Line]

    @classmethod
    def of(cls, number: int, title: str, results: Sequence[Result]) -> Group:
        """Put results in line."""
        return cls(number, title, results, line_up(results))

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which runs have them."""
        return list(dict.fromkeys(task for result in self.results for task in result["tasks"]))

    def place_of(self, line: Line) -> int:
        """Place of a line in this group, though it was put in line with fewer results."""
        keys = [(each.method, configuration_key(each.config)) for each in self.lines]
        return keys.index((line.method, configuration_key(line.config)))

    def name(self, place: int, shots: int | None = None) -> str:
        """Name the element of what stands behind a line, or behind its figures at some shots."""
        return f"g{self.number}-l{place + 1}" + ("" if shots is None else f"-s{say_shots(shots)}")

    def mark(self, place: int) -> str:
        """Marker of a line, as its curve has it."""
        number = few_shot_numbers(self.lines)[place]
        if number is None:
            return FLAT_MARK
        path = f'<path class="line-{number % COLOURS}" d="{SYMBOLS[number % len(SYMBOLS)]}"/>'
        return f'<svg class="mark" viewBox="-1.2 -1.2 2.4 2.4" aria-hidden="true">{path}</svg>'


def behind(result: Result) -> Sequence[Result]:
    """Find the runs behind a result: itself, or those it was put together from."""
    runs: Sequence[Result] = result.get("runs", (result,))
    return runs
