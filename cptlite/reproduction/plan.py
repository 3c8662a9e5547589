"""Which runs make the paper's table: its rows as methods here, and a sweep over them.

Ding et al., "Prompt Tuning with Soft Context Sharing for Vision-Language Models" (Neurocomputing 603:128290, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from cptlite.errors import UsageError
from cptlite.options import did_you_mean
from cptlite.runs.sweep_plan import SweepPlan
from cptlite.training.recipe import PAPER, RELEASED

__all__ = ["PAPER_METHODS", "SHOTS", "VIEWS", "paper_plan"]

PAPER_METHODS = (
    "zeroshot",
    "prototype",
    "linear-probe",
    "coop-ca",
    "coop-cs",
    "coop-mt",
    "cocoop",
    "prograd",
    "kgcoop",
    "plot",
    "softcpt",
)
VARIANTS = ("nats", "nata")  # of softcpt; the paper's third has no name tasks go by
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
VIEWS = 8
"""Views of a training image in the cache; the original draws a new one in every epoch."""


def paper_plan(
    suite: str,
    datasets: Sequence[str],
    backbone: str,
    *,
    recipe: str = PAPER,
    methods: Sequence[str] = PAPER_METHODS,
    shots: str | Sequence[int] = SHOTS,
    seeds: str | Sequence[int] = SEEDS,
) -> SweepPlan:
    """Plan the runs of the paper's table on one suite.

    Parameters
    ----------
    suite : str
    datasets : sequence of str
        Of the suite, learned jointly.
    backbone : str
    recipe : str
        ``paper``, as it is stated, or ``released``, as the authors' trainer steps.
    methods : sequence of str
        Some of `PAPER_METHODS`.
    shots, seeds : str or sequence of int

    Raises
    ------
    UsageError
        A method or the recipe is not the paper's.
    """
    for name in methods:
        if name not in PAPER_METHODS:
            raise UsageError(f"{name!r} is no method of the paper's table: {did_you_mean(name, PAPER_METHODS)}")
    if recipe not in (PAPER, RELEASED):
        raise UsageError(f"the paper's table is made by --recipe {PAPER} or {RELEASED}, got {recipe!r}")
    table = {
        "methods": list(methods),
        "suites": [suite],
        "datasets": list(datasets),
        "backbone": backbone,
        "shots": shots if isinstance(shots, str) else list(shots),
        "seeds": seeds if isinstance(seeds, str) else list(seeds),
        "set": {
            **({"variant": list(VARIANTS)} if "softcpt" in methods else {}),
            **({"recipe": recipe} if set(methods) - {"zeroshot", "prototype", "linear-probe"} else {}),
        },
    }
    return SweepPlan.from_table(table, "reproduce")
