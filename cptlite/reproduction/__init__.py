"""The table of SoftCPT's paper made anew: what it needs, what it takes, and its runs."""

from cptlite.reproduction.cost import Forecast, Outlook, look_ahead
from cptlite.reproduction.needs import refuse_failed
from cptlite.reproduction.plan import PAPER_METHODS, paper_plan
from cptlite.reproduction.target import Target, encode_missing

__all__ = [
    "PAPER_METHODS",
    "Forecast",
    "Outlook",
    "Target",
    "encode_missing",
    "look_ahead",
    "paper_plan",
    "refuse_failed",
]
