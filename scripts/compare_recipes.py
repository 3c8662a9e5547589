"""Compare prompt methods and recipes on the demo's test rows: ten seeds, paired differences with 95 % intervals.

    cptlite demo                                     # makes the caches
    python scripts/compare_recipes.py demo/cache --out compare
    python scripts/compare_recipes.py demo/cache --out compare --unseen classes --recipes full --shots 4 16
    python scripts/compare_recipes.py demo/cache --out compare --unseen tasks --recipes full --shots 4 16
    python scripts/compare_recipes.py demo/cache --out compare --recipes full --precisions auto bf16

Runs are trained as `cptlite train` does, into folders of --out: what is there is not trained again. With --unseen they
learn from base classes, or from all tasks but one in turn. Prints two tables in Markdown: mean and sample standard
deviation over seeds of each score, and paired differences of the suite score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from cptlite.config import RunConfig
from cptlite.datasets import load_catalog
from cptlite.metrics import mean_and_std, paired_interval
from cptlite.reporting.folds import join_folds
from cptlite.reporting.results import Result, run_parts
from cptlite.reporting.summaries import shots_label
from cptlite.runs.sweep import grid, run_all
from cptlite.training.recipe import RECIPES, RELEASED

SUITE = "demo"
Scores = dict[tuple[str, str, int], list[dict[str, float]]]
"""Scores in percent by name, the suite score first, in the order of seeds; by method, recipe and shots."""


def plan(given: argparse.Namespace) -> Iterator[RunConfig]:
    """List configurations; what is the paper's recipe but for its name is left out."""
    names = tuple(spec.name for spec in load_catalog().resolve([SUITE]))
    base: dict[str, Any] = {"suite": SUITE, "datasets": names, "backbone": "demo", "device": "cpu"}
    unseen: dict[str, list[dict[str, Any]]] = {
        "": [{}],
        "classes": [{"classes": "base"}],
        "tasks": [{"held_out_tasks": (name,)} for name in names],
    }
    for recipe, precision, options in product(given.recipes, given.precisions, unseen[given.unseen]):
        rows = {"methods": given.methods, "shots": given.shots, "seeds": range(1, given.seeds + 1)}
        for config in grid({**base, **options, "recipe": recipe, "precision": precision}, **rows):
            if recipe != RELEASED or config.recipe and config.recipe.steps_per_batch > 1:
                yield config


def percent(result: Result) -> dict[str, float]:
    """Scores of a run by name, the suite score first."""
    parts = {"suite score": result["suite_score"], **run_parts(result)}
    if "generalised" in result:
        parts["H over all classes"] = result["generalised"]["harmonic"]
    named = {name for name in parts if name in ("score", "H", "unseen")}  # the suite score by another name
    return {name: 100 * value for name, value in parts.items() if name not in named}


def way(recipe: str, precision: str) -> str:
    """Say how a run was stepped: ``full``, ``full in bf16``."""
    return recipe if precision == RunConfig.precision else f"{recipe} in {precision}"


def score_table(scores: Scores, given: argparse.Namespace) -> Iterator[str]:
    """Rows of means and deviations."""
    yield "| (%) | " + " | ".join(map(shots_label, given.shots)) + " |"
    yield "|---" * (len(given.shots) + 1) + "|"
    for method, how in dict.fromkeys(key[:2] for key in scores):
        for part in scores[method, how, given.shots[0]][0]:
            cells = (mean_and_std([each[part] for each in scores[method, how, shots]]) for shots in given.shots)
            words = " | ".join(f"{mean:.1f} ± {std:.1f}" for mean, std in cells)
            yield f"| {method}, {how}{'' if part == 'suite score' else f': {part}'} | {words} |"


def difference_table(scores: Scores, given: argparse.Namespace) -> Iterator[str]:
    """Rows of paired differences: of a method from its first way, then the first method from the others by each."""
    yield "| difference, 95 % interval | " + " | ".join(map(shots_label, given.shots)) + " |"
    yield "|---" * (len(given.shots) + 1) + "|"
    first, *others = given.methods
    ways = [way(*each) for each in product(given.recipes, given.precisions)]
    known = dict.fromkeys(key[:2] for key in scores)
    own = [((method, how), (method, ways[0])) for method, how in known]
    rivals = [
        ((first, how), (other, how if (other, how) in known else ways[0])) for how, other in product(ways, others)
    ]
    for one, other in own + rivals:
        if one != other and one in known:
            cells = (
                paired_interval(*([each["suite score"] for each in scores[(*which, shots)]] for which in (one, other)))
                for shots in given.shots
            )
            words = " | ".join(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in cells)
            yield f"| {', '.join(one)} - {', '.join(other)} | {words} |"


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache_dir", type=Path, nargs="?", default=Path("demo/cache"))
    parser.add_argument("--out", type=Path, default=Path("compare"))
    parser.add_argument("--methods", nargs="+", default=["softcpt", "coop-ca", "coop-mt", "coop-cs"])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--precisions", nargs="+", default=[RunConfig.precision])
    parser.add_argument("--unseen", choices=["", "classes", "tasks"], default="", help="by default nothing")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    results = run_all(plan(given), cache_dir=given.cache_dir, out=given.out, jobs=given.jobs)
    scores: Scores = {}
    for result in sorted(join_folds(results), key=lambda result: int(result["seed"])):
        config = result["config"]
        key = result["method"], way(config["recipe"], config["precision"]), int(result["shots"])
        scores.setdefault(key, []).append(percent(result))
    for table in (score_table, difference_table):
        print("\n".join(table(scores, given)) + "\n")


if __name__ == "__main__":
    main()
