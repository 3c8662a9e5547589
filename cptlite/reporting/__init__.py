"""Results of runs as tables and as a picture: what a run scored, what more shots bring."""

from cptlite.reporting.plots import draw_shots_plot
from cptlite.reporting.summaries import (
    Result,
    Summary,
    group_results,
    load_results,
    method_label,
    run_shots,
    summarize,
)
from cptlite.reporting.tables import (
    Table,
    method_task_table,
    render_table,
    run_table,
    summary_table,
)

__all__ = [
    "Result",
    "Summary",
    "Table",
    "draw_shots_plot",
    "group_results",
    "load_results",
    "method_label",
    "method_task_table",
    "render_table",
    "run_shots",
    "run_table",
    "summarize",
    "summary_table",
]
