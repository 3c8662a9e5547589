"""What every command prints with: results to stdout, everything about the work to stderr."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cptlite.datasets.text_files import shown, shown_lines

if TYPE_CHECKING:
    from rich.console import Console

    from cptlite.reporting import Table

__all__ = [
    "Tick",
    "invocation",
    "note",
    "print_results",
    "print_table",
    "print_text",
    "progress",
    "show_configuration",
    "some",
]


class Tick(Protocol):
    """Takes how much is done and how much there is in all, if known; perhaps a stage, its unit, more words."""

    def __call__(self, done: int, total: int | None, stage: str = ..., counted: str = ..., *, said: str = ...) -> None:
        """Show it."""


LINE_SECONDS = 30.0  # between lines about the work where stderr is no terminal
SURE_SECONDS = 1.0  # of work, from which on its speed is believed
BAR_WIDTH = 16
MOST_LINES = 3  # that sum up a command's settings
LINE_WIDTH = 80
PIPE_WIDTH = 200  # columns of a table that no terminal bounds


def _console(*, stderr: bool = False) -> Console:
    """Make a console for the stream as it is now; a pipe does not fold tables at 80 columns, unless COLUMNS says so."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdecimal() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def invocation() -> str:
    """How this program was called, for commands that are to be pasted: an environment need not be activated."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m cptlite"
    found = shutil.which(called.name)
    return called.name if found and Path(found).resolve() == called.resolve() else shlex.quote(sys.argv[0])


def note(message: str) -> None:
    """Tell the user something about the work, on stderr."""
    print(shown_lines(message), file=sys.stderr, flush=True)


def print_results(results: Sequence[Any], **beside: Any) -> None:
    """Write machine-readable results to stdout: ``{"results": [...]}`` for one and for many, and what holds for all."""
    value = {**beside, "results": list(results)}
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # half a letter out of a file, or a terminal of few letters
        text = json.dumps(value, indent=2)
    print(text)


def print_table(table: Table, form: str = "terminal") -> None:
    """Draw a table on stdout: for a terminal, or as ``markdown`` or ``latex``."""
    from cptlite.reporting import latex_table, markdown_table, render_table

    if form == "terminal":
        _console().print(render_table(table))
    else:
        print_text({"markdown": markdown_table, "latex": latex_table}[form](table))


def print_text(text: str) -> None:
    """Write lines to stdout; a letter that its encoding has not is written as its number."""
    encoding = sys.stdout.encoding
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def show_configuration(command: str, brief: Sequence[str], settings: Mapping[str, Any] | None = None) -> None:
    """Sum up the settings of a command on stderr, in three lines at most.

    Parameters
    ----------
    command : str
    brief : sequence of str
        Up to three lines, which are cut where a terminal would fold them.
    settings : mapping, optional
        All of them, to be printed one a line instead.
    """
    if settings is None:
        assert len(brief) <= MOST_LINES
        first, *others = (shown(line) for line in brief)
        lines = [_cut(line) for line in (f"cptlite {command}: {first}", *(f"  {line}" for line in others))]
    else:
        width = max(map(len, settings), default=0)
        lines = [f"cptlite {command}", *(f"  {name:<{width}}  {_word(value)}" for name, value in settings.items())]
    note("\n".join(lines))


def some(names: Sequence[str], room: int = 40) -> str:
    """List names in so many characters, and how many more there are."""
    said = ", ".join(names)
    count = len(names)
    while len(said) > room and count > 1:
        count -= 1
        said = f"{', '.join(names[:count])} and {len(names) - count} more"
    return said


def _cut(line: str) -> str:
    return line if len(line) < LINE_WIDTH else f"{line[: LINE_WIDTH - 4]}..."


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return "none" if value is None or value == "" else shown(value)


class _Pace:
    """How fast work goes, from the first of it that is seen to be done: what comes before is no part of its speed."""

    def __init__(self, description: str, unit: str) -> None:
        self.stage, self.unit, self.said = description, unit, ""
        self.done = 0
        self.total: int | None = None
        self._first: int | None = None  # done when this stage was first told of
        self._began: tuple[float, int] | None = None

    def update(self, done: int, total: int | None) -> None:
        """Take in how much is done."""
        self.done, self.total = done, total
        self._first = done if self._first is None else self._first
        if self._began is None and done > self._first:
            self._began = time.monotonic(), done

    @property
    def speed(self) -> float:
        """Units a second; 0 while it is not known."""
        if self._began is None:
            return 0.0
        seconds, done = time.monotonic() - self._began[0], self.done - self._began[1]
        return done / seconds if seconds >= SURE_SECONDS else 0.0

    @property
    def words(self) -> str:
        """How much is done, how fast it goes and the time left."""
        total = "" if self.total is None else f" of {self.total:,}"
        words = [self.said] if self.said else []
        words.append(f"{self.done:,}{total} {self.unit}")
        if speed := self.speed:
            words += [] if self.said else [f"{speed:.1f}/s" if speed < 100 else f"{speed:,.0f}/s"]
            left = 0.0 if self.total is None else (self.total - self.done) / speed
            words += [f"about {_clock(left)} left"] if left >= 1 else []
        return ", ".join(words)


def _clock(seconds: float) -> str:
    """Write ``0:40`` or ``2:03:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress(description: str, unit: str, *, hidden: bool = False) -> Iterator[Tick]:
    """Show how far the work is, how fast it goes and the time left: a bar, or a line now and then without a terminal.

    Parameters
    ----------
    description : str
        Before the bar.
    unit : str
        What is counted, in the plural: ``"images"``.
    hidden : bool
        Show nothing.

    Yields
    ------
    callable
        To be called with how much is done and how much there is in all, and, where the work comes in stages,
        with another description and unit, and with words that stand before.
    """
    pace = _Pace(description, unit)
    if hidden:
        yield lambda done, total, stage=description, counted=unit, *, said="": None
        return
    with _bar() if sys.stderr.isatty() else _lines() as show:

        def tick(
            done: int, total: int | None, stage: str = description, counted: str = unit, *, said: str = ""
        ) -> None:
            nonlocal pace
            if stage != pace.stage:
                pace = _Pace(stage, counted)
            pace.unit, pace.said = counted, said
            pace.update(done, total)
            show(pace)

        yield tick


@contextmanager
def _lines() -> Iterator[Callable[[_Pace], None]]:
    """Say it in a line every half minute."""
    told = time.monotonic()

    def show(pace: _Pace) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            note(f"{pace.stage}: {pace.words}")

    yield show


@contextmanager
def _bar() -> Iterator[Callable[[_Pace], None]]:
    """Draw a bar that goes when the work is done."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(BAR_WIDTH),
        bars.TextColumn("{task.fields[words]}", markup=False),
    )
    # Else what is printed meanwhile would go where the bar is, and not into a pipe.
    redirected = sys.stdout.isatty()
    console = _console(stderr=True)
    with bars.Progress(
        *columns, console=console, transient=True, redirect_stdout=redirected, refresh_per_second=4
    ) as bar:
        task = bar.add_task("", total=None, words="")

        def show(pace: _Pace) -> None:
            bar.update(task, description=shown(pace.stage), completed=pace.done, total=pace.total, words=pace.words)

        yield show
