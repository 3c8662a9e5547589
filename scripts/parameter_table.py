"""Print the learned numbers in docs/results.md: each row of the paper's table beside what the method here learns.

    python scripts/parameter_table.py

Both for RN50's text encoder (W 512, D 1024). The paper's figures are those of `cptlite report --paper`.

Axes: T tasks, K classes of all tasks, L, M context tokens of class and task prompts, P prompts a class, W text width,
D joint dimension, H hidden width of CoCoOp's net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from cptlite.methods.table import METHODS
from cptlite.reporting.paper import read_paper

__all__ = ["ROWS", "SUITES", "Row", "count", "markdown", "our_count", "paper_counts"]

# Tasks and classes; RS-8's classes are those of the paper's CoOp-CS row, since it is not in the catalogue.
SUITES = {
    "general10": {"T": 10, "K": 1191},
    "plant6": {"T": 6, "K": 116},
    "rs8": {"T": 8, "K": 208},
    "fashion20": {"T": 20, "K": 78},
}
RN50 = {"W": 512, "D": 1024, "H": 1024 // 16}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper's table as it is here.

    Attributes
    ----------
    method : str
        ``--method``, perhaps with a variant; empty for what is not here.
    formula : str
        Numbers learned, where `METHODS` does not say.
    sizes : mapping of str to int
        Axes that differ from the defaults.
    why : str
        Why the counts differ.
    """

    method: str = ""
    formula: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


ROWS = {
    "ZS-CLIP": Row(method="zeroshot", why="no figure in the paper"),
    "ProtoNet": Row(
        method="prototype",
        why="no figure in the paper; its ProtoNet is a network trained from scratch, here class means of CLIP features",
    ),
    "LP-CLIP": Row(method="linear-probe", why="no figure in the paper; ours counts weights and one bias a class"),
    "CoOp-CA": Row(method="coop-ca"),
    "CoOp-CS": Row(method="coop-cs"),
    "CoOp-MT": Row(method="coop-mt"),
    "CoCoOp": Row(
        method="cocoop",
        sizes={"L": 4},
    ),
    "ProGrad": Row(method="prograd"),
    "KgCoOp": Row(method="kgcoop"),
    "PLOT": Row(
        method="plot",
        sizes={"P": 4},
        why="four prompts a class, as in PLOT's paper; General-10's figure fits two, the others' fit four",
    ),
    "SoftCPT*": Row(why="not here; the figure is that of `D L W` and 8,192 more"),
    "SoftCPT-NATS": Row(
        method="softcpt --variant nats",
        formula="T M W + D L W",
        why="M is 4, as in the released scripts; the paper's figure, one for all suites, fits M 8 and the eight tasks "
        "of RS-8",
    ),
    "SoftCPT-NATA": Row(
        method="softcpt",
        why="M is 4, as in the released scripts; the paper's figure is that of `--task-context-length 8`",
    ),
}


def count(formula: str, sizes: Mapping[str, int]) -> int:
    """Work out products of axes and numbers, added up: ``"M W + 2 K"``."""
    return sum(
        prod(sizes[word] if word in sizes else int(word) for word in term.split()) for term in formula.split("+")
    )


def formula_of(row: Row) -> str:
    """Numbers learned, in axes."""
    return row.formula or METHODS[row.method].parameters


def our_count(row: Row, suite: str, **sizes: int) -> int:
    """Numbers learned on a suite with RN50, at the method's defaults unless sizes say otherwise."""
    defaults = {each.name: each.default for each in METHODS[row.method].list_options()} if row.method in METHODS else {}
    lengths = {"L": defaults.get("context_length", 16), "M": defaults.get("task_context_length", 4)}
    return count(formula_of(row), {**RN50, **lengths, **SUITES[suite], **row.sizes, **sizes})


def paper_counts() -> dict[str, dict[str, int | None]]:
    """Learned numbers in the paper's table, by suite and method; None where it gives none."""
    return {suite: {name: row.parameters for name, row in rows.items()} for suite, rows in read_paper().items()}


def markdown() -> str:
    """Lines of the table: one figure where both agree, else ours and in brackets the paper's."""
    paper = paper_counts()
    columns = ("the paper's row", "`--method`", "learns", *SUITES, "where they differ")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in ROWS.items():
        figures = [_cell(row, suite, paper[suite][name]) for suite in SUITES]
        method, formula = (f"`{row.method}`", f"`{formula_of(row)}`") if row.method else ("", "")
        lines.append(f"| {' | '.join((name, method, formula, *figures, row.why))} |")
    return "\n".join(lines)


def _cell(row: Row, suite: str, theirs: int | None) -> str:
    ours = our_count(row, suite) if row.method else None
    figures = [f"{ours:,}"] if ours is not None else []
    if theirs != ours:
        figures.append(f"({theirs:,})" if theirs is not None else "(-)")
    return " ".join(figures)


if __name__ == "__main__":
    print(markdown())
