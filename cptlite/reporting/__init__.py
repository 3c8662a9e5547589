"""Results of runs as tables and as a picture: what a run scored, what more shots bring."""

from cptlite.reporting.plots import draw_shots_plot
from cptlite.reporting.rendering import render_table
from cptlite.reporting.results import Result, load_results, method_label, run_shots
from cptlite.reporting.summaries import Line, Summary, group_results, line_up, summarize
from cptlite.reporting.tables import (
    Table,
    duration,
    method_task_table,
    run_table,
    summary_table,
)

__all__ = [
    "Line",
    "Result",
    "Summary",
    "Table",
    "draw_shots_plot",
    "duration",
    "group_results",
    "line_up",
    "load_results",
    "method_label",
    "method_task_table",
    "render_table",
    "run_shots",
    "run_table",
    "summarize",
    "summary_table",
]
