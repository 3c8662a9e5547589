"""Options of ``cptlite report``, and what their words mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.options import complete_method, split_at_commas
from cptlite.errors import UsageError
from cptlite.methods.table import find_method
from cptlite.shots import read_shots

if TYPE_CHECKING:
    from cptlite.reporting import Wanted

__all__ = [
    "AgainstOption",
    "BackbonesOption",
    "CompareOption",
    "Form",
    "FormOption",
    "HtmlOption",
    "MethodsOption",
    "OutOption",
    "PaperOption",
    "RanksOption",
    "RunsArgument",
    "SeedsOption",
    "ShotsOption",
    "SuitesOption",
    "TasksOption",
    "TasksWantedOption",
    "WhereOption",
    "read_wanted",
]

WHICH = "Which runs"
TABLES = "Tables"
AS = "As"


class Form(StrEnum):
    """What a report is printed as."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"


RunsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of runs, results.json files, or CSV files of --format csv.",
        show_default="runs",
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="Only runs of these methods; several with commas, or repeated, as of all of these.",
        autocompletion=complete_method,
        rich_help_panel=WHICH,
        show_default=False,
    ),
]
ShotsOption = Annotated[
    list[str] | None,
    typer.Option("--shots", help="Of these numbers of shots, or all.", rich_help_panel=WHICH, show_default=False),
]
SeedsOption = Annotated[
    list[str] | None,
    typer.Option("--seed", help="Of these seeds.", rich_help_panel=WHICH, show_default=False),
]
TasksWantedOption = Annotated[
    list[str] | None,
    typer.Option("--task", help="Scores of these tasks, and their mean.", rich_help_panel=WHICH, show_default=False),
]
SuitesOption = Annotated[
    list[str] | None,
    typer.Option("--suite", help="Filed under these suites.", rich_help_panel=WHICH, show_default=False),
]
BackbonesOption = Annotated[
    list[str] | None,
    typer.Option("--backbone", help="On features of these backbones.", rich_help_panel=WHICH, show_default=False),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="Configured so: option=value, as lr=0.5; repeated.", rich_help_panel=WHICH, show_default=False
    ),
]
TasksOption = Annotated[
    bool, typer.Option("--tasks", help="Also a table with a row per task, for every shots.", rich_help_panel=TABLES)
]
AgainstOption = Annotated[
    str,
    typer.Option(
        "--against",
        help="Columns of differences from this method, paired by seed.",
        rich_help_panel=TABLES,
        show_default=False,
    ),
]
CompareOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        help="Instead, two methods: differences by task, their intervals, and how many seeds they need.",
        metavar="METHOD METHOD",
        rich_help_panel=TABLES,
        show_default=False,
    ),
]
RanksOption = Annotated[
    bool, typer.Option("--ranks", help="Also the mean rank over tasks of every method.", rich_help_panel=TABLES)
]
PaperOption = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="Instead, the SoftCPT paper's table beside these, and what is not comparable.",
        rich_help_panel=TABLES,
    ),
]
FormOption = Annotated[
    Form,
    typer.Option(
        "--format",
        help="csv: a row per run, task and metric, which report reads again; json: as --json.",
        rich_help_panel=AS,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Folder to draw scores against shots into: the suite's, each task's.", rich_help_panel=AS
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="File for one page: tables, curves, and where each number is from (extra html).",
        rich_help_panel=AS,
    ),
]


def read_wanted(
    *,
    methods: Sequence[str] | None,
    shots: Sequence[str] | None,
    seeds: Sequence[str] | None,
    tasks: Sequence[str] | None,
    suites: Sequence[str] | None,
    backbones: Sequence[str] | None,
    where: Sequence[str] | None,
) -> Wanted:
    """Take the options that say which runs apart.

    Raises
    ------
    UsageError
        A word is no method, no number or no ``option=value``.
    """
    from cptlite.reporting import Wanted

    options: dict[str, tuple[str, ...]] = {}
    for words in where or ():
        name, equals, value = words.partition("=")
        if not name or not equals:
            raise UsageError(f"--where wants option=value, as lr=0.5, got {words!r}")
        options[name] = (*options.get(name, ()), value)
    return Wanted(
        methods=tuple(name for name in split_at_commas(methods or []) if find_method(name)),
        shots=_numbers("shots", shots),
        seeds=_numbers("seed", seeds),
        tasks=tuple(split_at_commas(tasks or [])),
        suites=tuple(split_at_commas(suites or [])),
        backbones=tuple(backbones or ()),
        where=options,
    )


def _numbers(option: str, words: Sequence[str] | None) -> tuple[int, ...]:
    try:
        return tuple(read_shots(word) if option == "shots" else int(word) for word in split_at_commas(words or []))
    except ValueError as error:
        raise UsageError(f"--{option} wants whole numbers, {error}: give some, with commas between them") from None
