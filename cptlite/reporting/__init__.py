"""Results of runs as tables and as pictures: what a run scored, what more shots bring, what is better, how surely."""

from cptlite.reporting.choosing import Wanted, choose_results, find_line
from cptlite.reporting.comparison_tables import comparison_tables, rank_table
from cptlite.reporting.formats import latex_table, markdown_table
from cptlite.reporting.long_form import long_form
from cptlite.reporting.panels import draw_tasks_plot
from cptlite.reporting.paper_tables import of_the_paper, paper_records, paper_table
from cptlite.reporting.plots import draw_shots_plot
from cptlite.reporting.records import comparison_records, summary_records
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
    "Wanted",
    "choose_results",
    "comparison_records",
    "comparison_tables",
    "draw_shots_plot",
    "draw_tasks_plot",
    "duration",
    "find_line",
    "group_results",
    "latex_table",
    "line_up",
    "load_results",
    "long_form",
    "markdown_table",
    "method_label",
    "method_task_table",
    "of_the_paper",
    "paper_records",
    "paper_table",
    "rank_table",
    "render_table",
    "run_shots",
    "run_table",
    "summarize",
    "summary_records",
    "summary_table",
]
