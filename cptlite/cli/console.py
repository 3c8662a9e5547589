"""What every command prints with: results to stdout, everything about the work to stderr."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cptlite.datasets.text_files import shown, shown_lines

if TYPE_CHECKING:
    from rich.console import Console

    from cptlite.reporting import Table

__all__ = ["Tick", "invocation", "note", "print_json", "print_table", "progress", "show_configuration"]


class Tick(Protocol):
    """Takes how much is done and how much there is in all, if that is known, and perhaps a stage and what it counts."""

    def __call__(self, done: float, total: int | None, stage: str = ..., counted: str = ...) -> None:
        """Show it."""


PIPE_WIDTH = 200  # columns of a table that no terminal bounds


def _console(*, stderr: bool = False) -> Console:
    """Make a console for the stream as it is now; a pipe does not fold tables at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
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


def print_json(value: Any) -> None:
    """Write a machine-readable result to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # half a letter out of a file, or a terminal of few letters
        text = json.dumps(value, indent=2)
    print(text)


def print_table(table: Table) -> None:
    """Draw a table on stdout."""
    from cptlite.reporting import render_table

    _console().print(render_table(table))


def show_configuration(command: str, settings: Mapping[str, Any]) -> None:
    """Print the resolved settings of a command, one a line, on stderr."""
    width = max(map(len, settings), default=0)
    lines = (f"  {name:<{width}}  {_word(value)}" for name, value in settings.items())
    note("\n".join((f"cptlite {command}", *lines)))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value)) or "none"
    return "none" if value is None or value == "" else shown(value)


@contextmanager
def progress(description: str, unit: str, *, hidden: bool = False) -> Iterator[Tick]:
    """Show how far the work is, how fast it goes and the time left, where stderr is a terminal.

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
        with another description and unit.
    """
    if hidden or not sys.stderr.isatty():
        yield lambda done, total, stage=description, counted=unit: None
        return
    from rich import progress as bars
    from rich.text import Text

    class Speed(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(f"{task.speed:.1f} {task.fields['counted']}/s" if task.speed else "")

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        Speed(),
        bars.TimeRemainingColumn(),
    )
    # Else what is printed meanwhile would go where the bar is, and not into a pipe.
    redirected = sys.stdout.isatty()
    with bars.Progress(*columns, console=_console(stderr=True), transient=True, redirect_stdout=redirected) as bar:
        task = bar.add_task(description, total=None, counted=unit)

        def tick(done: float, total: int | None, stage: str = description, counted: str = unit) -> None:
            if stage != bar.tasks[0].description:
                bar.reset(task, description=stage, counted=counted)
            bar.update(task, completed=done, total=total)

        yield tick
