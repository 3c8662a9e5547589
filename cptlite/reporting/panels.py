"""Each task's score against shots, one small plot a task on one page, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from textwrap import wrap

from cptlite.datasets.text_files import shown
from cptlite.reporting.figures import new_figure, write_figure
from cptlite.reporting.plots import GREY, Score, draw_curves, note_seeds, one_group, set_shots_axis
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import line_up

__all__ = ["draw_tasks_plot"]

MOST_TASKS = 48  # on a page
MOST_COLUMNS = 5
PANEL = 2.5, 2.0  # inches
TITLE_WIDTH = 30  # characters
LEGEND_COLUMNS = 3
HEAD = 0.8  # inches, for title and legend


def _score_of(task: str) -> Score:
    return lambda summary: summary.tasks[task]


def draw_tasks_plot(results: Sequence[Result], path: Path, title: str | None = None) -> Path:
    """Draw each task's score against the shots, in bands of a deviation, and write all of them as one PNG.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone.
    path : Path
        File to write; its folder is made.
    title : str, optional
        Above the plots; by default suite, backbone and number of tasks.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    UsageError
        There is nothing to draw, or the results are over different tasks or backbones.
    CptliteError
        matplotlib is not installed, or the disk is full.
    """
    name, together = one_group(results)
    lines = line_up(together)
    summaries = [summary for line in lines for summary in line.summaries().values()]
    tasks = list(summaries[0].tasks)
    drawn = tasks[:MOST_TASKS]
    columns = min(MOST_COLUMNS, max(2, ceil(sqrt(len(drawn)))))
    rows = ceil(len(drawn) / columns)
    figure = new_figure(columns * PANEL[0], rows * PANEL[1] + HEAD + 0.22 * ceil(len(lines) / LEGEND_COLUMNS))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    panels = list(grid.flat)
    for task, axes in zip(drawn, panels, strict=False):
        draw_curves(axes, lines, _score_of(task))
        set_shots_axis(axes, summaries)
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.set_title("\n".join(wrap(shown(task), TITLE_WIDTH)), loc="left", fontsize=9, parse_math=False)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("score (%)", fontsize=8)
    for axes in panels[max(0, len(drawn) - columns) : len(drawn)]:
        axes.set_xlabel("shots", fontsize=8)
    left_out = f"; {len(tasks) - len(drawn)} more tasks left out" * (len(tasks) > len(drawn))
    figure.suptitle(
        f"{shown(title or name)}\n{note_seeds(summaries)}{left_out}", fontsize=10, color=GREY, parse_math=False
    )
    curves = panels[0].get_legend_handles_labels()
    legend = figure.legend(*curves, loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    for words in legend.get_texts():
        words.set_parse_math(False)
    return write_figure(figure, path)
