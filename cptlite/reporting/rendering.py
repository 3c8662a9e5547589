"""Tables drawn for a terminal, whatever its width: words are folded first, then figures go below each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cptlite.datasets.text_files import shown, shown_lines
from cptlite.reporting.tables import Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable

__all__ = ["render_table"]

GAP = 2  # between columns
LEAST_WORDS, MOST_WORD, FIRST_WORDS = 10, 20, 24  # characters that a column of words keeps: the first one more


@dataclass(frozen=True)
class _Rendered:
    """What a rich console prints of a table: it says how wide it is."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        yield Text(shown(self.table.title), style="bold")
        for places, widths in _parts(self.table, options.max_width):
            yield ""
            yield _draw(self.table, places, widths)
        if self.table.caption:
            yield Text(shown_lines(self.table.caption), style="dim")
        yield ""


def render_table(table: Table) -> RenderableType:
    """Draw a table for the terminal.

    Parameters
    ----------
    table : Table
        What to draw. Where it is wider than the terminal its words are folded; where that does not do, its columns are
        drawn in several parts, each with the first column.

    Returns
    -------
    rich.console.RenderableType
        Title, table and caption, to be printed by a rich console.
    """
    return _Rendered(table)


def _parts(table: Table, width: int) -> Iterator[tuple[list[int], list[int]]]:
    """Columns of each part, and their widths."""
    natural, least = _natural_widths(table), _least_widths(table)
    places = list(range(len(table.columns)))
    while places:
        count = len(places)
        while count > 1 and _total([least[place] for place in places[:count]]) > width:
            count -= 1
        # A part holds the first column and one more at least, however narrow the terminal is.
        part, places = places[: max(count, min(2, len(places)))], places[max(count, 2) :]
        widths = [natural[place] for place in part]
        while _total(widths) > width:
            foldable = [index for index, place in enumerate(part) if widths[index] > least[place]]
            if not foldable:
                break
            widths[max(foldable, key=widths.__getitem__)] -= 1
        yield part, widths
        if places:
            places = [0, *places]


def _natural_widths(table: Table) -> list[int]:
    from rich.cells import cell_len

    words = [table.columns, *table.rows]
    return [max(cell_len(shown(row[place])) for row in words) for place in range(len(table.columns))]


def _least_widths(table: Table) -> list[int]:
    """Figures are not folded, nor are single words, unless they are long."""
    least = _natural_widths(table)
    for place in table.words:
        longest = max((len(word) for row in (table.columns, *table.rows) for word in row[place].split()), default=0)
        kept = max(LEAST_WORDS, min(longest, MOST_WORD)) if place else FIRST_WORDS
        least[place] = min(least[place], kept)
    return least


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _draw(table: Table, places: Sequence[int], widths: Sequence[int]) -> RichTable:
    """Draw some of the columns."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for place, width in zip(places, widths, strict=True):
        left = place in table.words
        heading = Text(shown(table.columns[place]))
        drawn.add_column(heading, justify="left" if left else "right", overflow="fold", width=width)
    for row, words in enumerate(table.rows):
        styles = ("bold green" if (row, place) in table.best else "" for place in places)
        drawn.add_row(*(Text(shown(words[place]), style=style) for place, style in zip(places, styles, strict=True)))
    return drawn
