"""The table of SoftCPT's paper made anew: what it needs, what it takes, and its runs."""

from cptlite.reproduction.cost import Forecast, foresee, foresee_runs, suite_tasks
from cptlite.reproduction.needs import check_needs, weights_are_missing
from cptlite.reproduction.plan import PAPER_METHODS, paper_plan

__all__ = [
    "PAPER_METHODS",
    "Forecast",
    "check_needs",
    "foresee",
    "foresee_runs",
    "paper_plan",
    "suite_tasks",
    "weights_are_missing",
]
