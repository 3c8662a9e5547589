"""The SoftCPT paper's table beside ours, and what keeps a figure from being comparable.

Ding et al., Neurocomputing 603:128290, 2024 (arXiv 2208.13474): its results with RN50, by suite, method and shots. The
figures are in the package, in percent; here scores are in [0, 1].
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from cptlite.datasets import load_catalog
from cptlite.methods.table import METHODS
from cptlite.metrics import mean_and_std
from cptlite.reporting.configurations import Configuration, say_differences
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, Summary
from cptlite.training.recipe import PAPER, RELEASED

__all__ = ["PAPER_SHOTS", "PaperRow", "average_score", "find_row", "paper_suite", "read_paper", "why_not_comparable"]

PAPER_SHOTS = (1, 2, 4, 8, 16)
BACKBONE = "RN50"
METHOD_OF = {
    ("zeroshot", ""): "ZS-CLIP",
    ("prototype", ""): "ProtoNet",
    ("linear-probe", ""): "LP-CLIP",
    ("coop-ca", ""): "CoOp-CA",
    ("coop-cs", ""): "CoOp-CS",
    ("coop-mt", ""): "CoOp-MT",
    ("cocoop", ""): "CoCoOp",
    ("prograd", ""): "ProGrad",
    ("kgcoop", ""): "KgCoOp",
    ("plot", ""): "PLOT",
    ("softcpt", "nats"): "SoftCPT-NATS",
    ("softcpt", "nata"): "SoftCPT-NATA",
}
"""The paper's name of a method and its variant."""

TASKS = {"fashion20": 20, "rs8": 8}  # of suites whose tasks the catalogue does not name
UNPUBLISHED = {
    "plant6": "rows: the paper's split is not published, this one is drawn here",
    "fashion20": "rows: the paper's split is not published, this one is drawn here",
    "rs8": "tasks: the paper's eight are not published, these are others",
}
OTHERWISE = {
    "prototype": "method: nearest mean of frozen features; the paper's ProtoNet is trained from scratch on the images",
    "plot": "method: sees the plain view alone, the original a random crop in every epoch",
    "softcpt": "task words: this package's, the paper's are not published",
}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper's table.

    Attributes
    ----------
    suite, method : str
        As the paper says them; the suite as the catalogue does.
    parameters : int or None
        Learned numbers.
    minutes : float or None
        Of a training on the authors' GPU.
    scores : mapping of int to (float, float)
        Mean and deviation by shots; none of zero-shot.
    average : (float, float)
        Of both over the shots.
    """

    suite: str
    method: str
    parameters: int | None
    minutes: float | None
    scores: Mapping[int, tuple[float, float]]
    average: tuple[float, float]


def read_paper() -> dict[str, dict[str, PaperRow]]:
    """Read the paper's table: rows by method, by suite."""
    text = files("cptlite").joinpath("assets/paper_results.csv").read_text(encoding="utf-8")
    rows: dict[str, dict[str, PaperRow]] = {}
    for line in csv.DictReader(io.StringIO(text)):
        scores = {shots: _percent(line, f"shot{shots}") for shots in PAPER_SHOTS if line[f"shot{shots}"]}
        rows.setdefault(line["suite"], {})[line["method"]] = PaperRow(
            suite=line["suite"],
            method=line["method"],
            parameters=int(line["params"]) if line["params"] else None,
            minutes=float(line["train_minutes"]) if line["train_minutes"] else None,
            scores=scores,
            average=_percent(line, "avg"),
        )
    return rows


def _percent(line: Mapping[str, str], name: str) -> tuple[float, float]:
    return float(line[name]) / 100, float(line[f"{name}_std"]) / 100


def paper_suite(results: Sequence[Result]) -> str:
    """Name the suite of the paper that results of one group are over, or over a part of; "" for any other."""
    suites = load_catalog().suites
    known = [name for name in read_paper() if name in suites]
    if results[0]["suite"] in known:
        return str(results[0]["suite"])
    datasets = {task.split("/")[0] for task in results[0]["tasks"]}
    return next((name for name in known if datasets <= set(suites[name].datasets)), "")


def find_row(line: Line, rows: Mapping[str, PaperRow]) -> PaperRow | None:
    """Find a line's row among those of a suite, by method and variant."""
    result = _some_result(line)
    name = METHOD_OF.get((result["method"], result.get("variant") or ""))
    return rows.get(name) if name else None


def _some_result(line: Line) -> Result:
    return next(result for by_seed in line.runs.values() for result in by_seed.values())


def average_score(summaries: Mapping[int, Summary]) -> float | None:
    """Average a line over the paper's shots; None where it lacks one, unless it uses none."""
    if set(summaries) == {0}:
        return summaries[0].mean
    means = [summaries[shots].mean for shots in PAPER_SHOTS if shots in summaries]
    return mean_and_std(means)[0] if len(means) == len(PAPER_SHOTS) else None


def why_not_comparable(line: Line, row: PaperRow) -> list[str]:
    """Say what sets a line apart from the paper's row besides its figures.

    Parameters
    ----------
    line : Line
    row : PaperRow

    Returns
    -------
    list of str
        One sentence each; empty where nothing is known that would.
    """
    result = _some_result(line)
    return [
        *_other_tasks(result, row.suite),
        *([f"backbone: {result.get('backbone')}, the paper's is {BACKBONE}"] * (result.get("backbone") != BACKBONE)),
        *_other_rows(result, row.suite),
        *_other_recipe(line.config if result.get("config") else {}, result["method"]),
        *([OTHERWISE[result["method"]]] if result["method"] in OTHERWISE else []),
        *_other_size(line, row),
        *(["seeds: one, the paper's are means over several"] if _single(line) else []),
    ]


def _other_tasks(result: Result, suite: str) -> Iterator[str]:
    tasks = list(result["tasks"])
    if "harmonic" in result:
        yield "classes: of half of them nothing was learned, the score is H"
    if any(scores.get("held_out") for scores in result["tasks"].values()):
        yield "tasks: nothing was learned from those that are scored"
    wanted = load_catalog().suites[suite].datasets
    if suite in TASKS:
        if len(tasks) != TASKS[suite]:
            yield f"tasks: {len(tasks)}, the paper's suite has {TASKS[suite]}"
    elif missing := [name for name in wanted if name not in tasks]:
        yield f"tasks: without {', '.join(missing)}"
    if wanted and (others := [task for task in tasks if task.split("/")[0] not in wanted]):
        yield f"tasks: with {', '.join(others)}, which the paper's suite has not"


def _other_rows(result: Result, suite: str) -> Iterator[str]:
    """Say what is known of the rows: that the split is not published, or that test rows are not all."""
    if suite in UNPUBLISHED:
        yield UNPUBLISHED[suite]
        return
    datasets = load_catalog().datasets
    counts = {name: spec.counts[2] for name, spec in datasets.items() if spec.counts}
    for task, scores in result["tasks"].items():
        rows = scores.get("rows")
        if task in counts and rows and rows != counts[task]:
            yield f"rows: {rows:,} to test {task}, its split has {counts[task]:,}"


def _other_recipe(config: Configuration, method: str) -> Iterator[str]:
    """Say what was stepped otherwise, as far as it was recorded."""
    if not config:
        yield "configuration: not recorded"
        return
    recipe = config.get("recipe", PAPER)
    if recipe == PAPER and method == "softcpt":
        yield "recipe: paper, as stated; the paper's figures were presumably made by --recipe released"
    elif recipe not in (PAPER, RELEASED):
        yield f"recipe: {recipe}, the paper's are released or paper"
    (differs,) = say_differences([config])
    if differs:
        yield f"options: {differs}"
    if config.get("cached_views") == 1 and method in METHODS and METHODS[method].cached == "random views":
        yield "views: the plain one alone, the paper's methods see a random crop in every epoch"


def _other_size(line: Line, row: PaperRow) -> Iterator[str]:
    learned = max(summary.parameters for summary in line.summaries().values())
    if row.parameters is not None and learned != row.parameters:
        yield f"size: {learned:,} learned numbers, the paper's {row.parameters:,}"


def _single(line: Line) -> bool:
    return any(shots and len(by_seed) == 1 for shots, by_seed in line.runs.items())
