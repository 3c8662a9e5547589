"""A group of runs as a section of the page: tables, curves, small multiples, confusion."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from cptlite.reporting.page.charts import curve_data, curve_spec, matrix_spec
from cptlite.reporting.page.confusion import Confusion, count_confusion
from cptlite.reporting.page.group import Charts, Group, behind
from cptlite.reporting.page.markup import Cell, escape, folded, table_markup
from cptlite.reporting.results import Result, run_shots, task_score
from cptlite.reporting.summaries import Line, line_up, shots_label
from cptlite.reporting.tables import Table, method_task_table, summary_table

__all__ = ["group_sections"]

CURVE_HEIGHT, SMALL_HEIGHT = 340, 180  # pixels


def group_sections(group: Group, charts: Charts) -> Iterator[str]:
    """Markup of a group but for its runs, part by part; its charts are added to those of the page."""
    table = summary_table(group.results, group.title)
    yield f'<h2 id="g{group.number}">{escape(group.title)}</h2>'
    yield _summary(group, table)
    yield f'<p class="quiet">{escape(table.caption)}. Each figure leads to the runs behind it.</p>'
    if any(shots for line in group.lines for shots in line.runs):
        yield from _curves(group, charts)
    yield from _task_tables(group)
    yield from _confusion(group, charts)


def _summary(group: Group, table: Table) -> str:
    """Draw the suite's table: a figure of some shots leads to these runs, another to those of the line."""
    by_label = {shots_label(shots): shots for line in group.lines for shots in line.runs}
    rows = []
    for row, words in enumerate(table.rows):
        cells = []
        for column, (heading, word) in enumerate(zip(table.columns, words, strict=True)):
            shots = by_label.get(heading.split(":")[0])
            kind = "best" * ((row, column) in table.best) or "words" * (0 < column and column in table.words)
            link = f"#{group.name(row, shots)}"
            cells.append(Cell(text=word, link=link, kind=kind, mark=group.mark(row) if column == 0 else ""))
        rows.append(cells)
    return table_markup(table.columns, [("", rows)], words=table.words, sorts=True)


def _legend(group: Group) -> str:
    items = (f"<li>{group.mark(place)}{escape(line.label)}</li>" for place, line in enumerate(group.lines))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _curves(group: Group, charts: Charts) -> Iterator[str]:
    """Draw the suite's curves, and those of each task where there are several."""
    parts = {part for line in group.lines for each in line.summaries().values() for part in each.parts}
    score = "harmonic mean of base and new" if "H" in parts else "unseen tasks" if "unseen" in parts else "suite score"
    whole, small = f"curve-{group.number}", f"small-{group.number}"
    charts.specs[whole] = curve_spec(group.lines, height=CURVE_HEIGHT, title=f"{score} (%)")
    yield "<h3>Score against shots</h3>"
    yield _legend(group)
    data = curve_data(group.lines, lambda result: result["suite_score"])
    yield charts.place(whole, data, kind="curve", label=f"{group.title}: {score} against shots")
    yield '<p class="quiet">Line: mean over seeds; band: one sample standard deviation to each side.</p>'
    if len(group.tasks) == 1:
        return
    charts.specs[small] = curve_spec(group.lines, height=SMALL_HEIGHT, title="")
    yield "<h3>Score against shots, task by task</h3>"
    yield _legend(group)
    yield '<div class="many">'
    for task in group.tasks:
        place = charts.place(
            small, curve_data(group.lines, partial(_score, task)), kind="small", label=f"{task}: score against shots"
        )
        yield f"<div><h4>{escape(task)}</h4>{place}</div>"
    yield "</div>"


def _score(task: str, result: Result) -> float | None:
    scores = result["tasks"].get(task)
    return None if scores is None else task_score(scores)


def _task_tables(group: Group) -> Iterator[str]:
    """One table for each number of shots; the one with the most is open."""
    counts = sorted({run_shots(result) for result in group.results} - {0}) or [0]
    yield "<h3>Score by task</h3>"
    for shots in reversed(counts):
        table = method_task_table(group.results, shots)
        lines = line_up(result for result in group.results if run_shots(result) in (0, shots))
        places = [group.place_of(line) for line in lines]
        rows = []
        for row, (task, *figures) in enumerate(table.rows):
            cells = [Cell(text=task)]
            for column, (place, line, word) in enumerate(zip(places, lines, figures, strict=True), start=1):
                kind = "best" * ((row, column) in table.best)
                cells.append(Cell(text=word, link=f"#{group.name(place, min(line.runs))}", kind=kind))
            rows.append(cells)
        inner = table_markup(table.columns, [("", rows)], sorts=True)
        yield folded(f"{escape(shots_label(shots))}", inner, opened=shots == counts[-1])
    halved = any("harmonic" in result for result in group.results)
    words = "harmonic mean of base and new classes, " * halved
    yield f'<p class="quiet">Mean over seeds (%), {words}in the metric of the task.</p>'


def _confusion(group: Group, charts: Charts) -> Iterator[str]:
    """Draw what classes are taken for, by line, at its most shots."""
    found = []
    for place, line in reversed(list(enumerate(group.lines))):
        shots, by_seed = list(line.runs.items())[-1]
        runs = [run for result in by_seed.values() for run in behind(result)]
        matrices = count_confusion(runs)
        if matrices:
            found.append((place, line, shots, len(by_seed), matrices))
    if not found:
        return
    charts.specs["matrix"] = matrix_spec()
    yield "<h3>What is taken for what</h3>"
    yield (
        '<p class="quiet">Test images by class and by the class predicted, of all seeds together: the darker, the more '
        "of the class.</p>"
    )
    for place, line, shots, seeds, matrices in found:
        inner = "".join(_matrix(line, each, charts) for each in matrices)
        count = f"{seeds} seed{'s' if seeds != 1 else ''}"
        link = f'<a href="#{group.name(place, shots)}">these runs</a>'
        about = f'<p class="quiet">Counted from {link}.</p>'
        words = f'{group.mark(place)}{escape(line.label)}<span class="quiet">{shots_label(shots)}, {count}</span>'
        yield folded(words, f'{about}<div class="many">{inner}</div>')


def _matrix(line: Line, each: Confusion, charts: Charts) -> str:
    data = {"names": each.names, "totals": each.totals, "cells": each.cells}
    place = charts.place("matrix", data, kind="matrix", label=f"{line.label}, {each.task}: confusion of classes")
    shown, everything = len(each.names), each.num_classes
    some = f'<p class="quiet">{shown} of {everything} classes, those with the most mistakes.</p>'
    return f"<div><h4>{escape(each.task)}</h4>{some if shown < everything else ''}{place}</div>"
