"""``cptlite report``: the tables and the plots of runs that are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlite.cli.console import note, print_results, print_table, print_text
from cptlite.cli.options import JsonOption
from cptlite.cli.report_options import (
    AgainstOption,
    BackbonesOption,
    CompareOption,
    Form,
    FormOption,
    HtmlOption,
    MethodsOption,
    OutOption,
    PaperOption,
    RanksOption,
    RunsArgument,
    SeedsOption,
    ShotsOption,
    SuitesOption,
    TasksOption,
    TasksWantedOption,
    WhereOption,
    read_wanted,
)
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError, UsageError

if TYPE_CHECKING:
    from cptlite.reporting import Line, Result, Table

__all__ = ["report"]

Groups = dict[str, list["Result"]]


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """Which tables a report has."""

    tasks: bool
    against: str
    compare: tuple[str, str] | None
    ranks: bool
    paper: bool


def report(
    runs: RunsArgument = None,
    method: MethodsOption = None,
    shots: ShotsOption = None,
    seed: SeedsOption = None,
    task: TasksWantedOption = None,
    suite: SuitesOption = None,
    backbone: BackbonesOption = None,
    where: WhereOption = None,
    tasks: TasksOption = False,
    against: AgainstOption = "",
    compare: CompareOption = None,
    ranks: RanksOption = False,
    paper: PaperOption = False,
    form: FormOption = Form.TERMINAL,
    out: OutOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Print mean and standard deviation over seeds per method, configuration and number of shots."""
    from cptlite import reporting

    contents = _Contents(tasks=tasks, against=against, compare=compare, ranks=ranks, paper=paper)
    form = _check(contents, form, json)
    wanted = read_wanted(
        methods=method, shots=shots, seeds=seed, tasks=task, suites=suite, backbones=backbone, where=where
    )
    loaded = reporting.choose_results(reporting.load_results(runs or [Path("runs")]), wanted)
    for result in loaded:
        if not result.get("config"):
            folder = shown(result["folder"])
            note(f"no configuration recorded, so put with others like it by method and variant: {folder}")
    groups = reporting.group_results(loaded)
    if paper:
        groups = reporting.of_the_paper(groups)
    if form is Form.CSV:
        print_text(reporting.long_form(loaded))
    elif form is Form.JSON:
        print_results(list(_records(groups, contents)))
    else:
        _print_tables(_tables(groups, contents), form)
    if out is not None:
        _draw(groups, out)
    if html is not None:
        from cptlite.reporting.page import write_page

        note(f"written: {shown(write_page(loaded, html))}")


def _check(contents: _Contents, form: Form, json: bool) -> Form:
    """Refuse what does not go together; return what to print as."""
    if json and form not in (Form.TERMINAL, Form.JSON):
        raise UsageError(f"wanted one form, got --json and --format {form}: give one of them")
    instead = [name for name in ("compare", "paper") if getattr(contents, name)]
    beside = [name for name in ("tasks", "against", "ranks") if getattr(contents, name)]
    if len(instead) > 1 or instead and beside:
        words = " and ".join(f"--{name}" for name in (*instead, *beside))
        raise UsageError(f"wanted one kind of report, got {words}: give them one after the other")
    if form is Form.CSV and (instead or beside):
        raise UsageError(
            f"--format csv is of runs, not of tables such as --{(*instead, *beside)[0]}: leave that out, or give "
            "--format json"
        )
    return Form.JSON if json else form


def _tables(groups: Groups, contents: _Contents) -> Iterator[Table]:
    """Every table of a report, in order."""
    from cptlite import reporting

    named = _find_lines(groups, contents)
    for title, results in groups.items():
        if contents.compare:
            yield from reporting.comparison_tables(named[title], title) if title in named else ()
        elif contents.paper:
            yield reporting.paper_table(results, title)
        else:
            yield reporting.summary_table(results, title, contents.against if title in named else "")
        if contents.tasks:
            for shots in sorted({reporting.run_shots(result) for result in results} - {0}):
                yield reporting.method_task_table(results, shots, title)
        if contents.ranks:
            yield reporting.rank_table(results, title)


def _records(groups: Groups, contents: _Contents) -> Iterator[Any]:
    """Return the same as data; the tasks' scores are always there."""
    from cptlite import reporting

    named = _find_lines(groups, contents)
    for title, results in groups.items():
        if contents.compare:
            yield from reporting.comparison_records(named[title], title) if title in named else ()
        elif contents.paper:
            yield from reporting.paper_records(results, title)
        else:
            against = contents.against if title in named else ""
            yield from reporting.summary_records(results, title, against, contents.ranks)


def _find_lines(groups: Groups, contents: _Contents) -> dict[str, list[Line]]:
    """Find the lines that a report names, in the groups that have them; one group has to."""
    from cptlite import reporting

    names = contents.compare or ([contents.against] if contents.against else [])
    found: dict[str, list[Line]] = {}
    missing: dict[str, DataError] = {}
    for title, results in groups.items() if names else ():
        lines = reporting.line_up(results)
        try:
            found[title] = [reporting.find_line(lines, name) for name in names]
        except DataError as error:
            missing[title] = error
    if names and not found:
        raise next(iter(missing.values()))
    for title, why in missing.items():
        note(f"{title}: {why}")
    return found


def _print_tables(tables: Iterator[Table], form: Form) -> None:
    """Print tables, on a page with an empty line between them."""
    for number, table in enumerate(tables):
        if number and form is not Form.TERMINAL:
            print_text("\n")
        print_table(table, form)


def _draw(groups: Groups, out: Path) -> None:
    """Draw every group: the suite's scores, and each task's where there are several."""
    from cptlite import reporting

    for number, (title, results) in enumerate(groups.items(), start=1):
        end = ".png" if len(groups) == 1 else f"-{number}.png"
        drawn = [reporting.draw_shots_plot(results, out / f"shots{end}", title)]
        if len(results[0]["tasks"]) > 1:
            drawn.append(reporting.draw_tasks_plot(results, out / f"tasks{end}", title))
        for path in drawn:
            note(f"drawn: {shown(path)}")
