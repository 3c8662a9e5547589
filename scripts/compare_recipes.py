"""Compare prompt methods and recipes on the demo's test rows: ten seeds, paired differences with 95 % intervals.

    cptlite demo                                     # makes the caches
    python scripts/compare_recipes.py demo/cache --out compare

Runs are trained as `cptlite train` does, into folders of --out: what is there is not trained again. Prints two tables
in Markdown: mean and sample standard deviation of the suite score over seeds, and paired differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from cptlite.config import RunConfig
from cptlite.datasets import load_catalog
from cptlite.metrics import mean_and_std, paired_interval
from cptlite.reporting.summaries import shots_label
from cptlite.runs.sweep import grid, run_all
from cptlite.training.recipe import RECIPES

SUITE = "demo"
Scores = dict[tuple[str, str, int], list[float]]
"""Suite scores in percent in the order of seeds, by method, recipe and shots."""


def plan(methods: Sequence[str], shots: Sequence[int], seeds: int) -> Iterator[tuple[str, list[RunConfig]]]:
    """List configurations by recipe; what is the paper's recipe but for its name is left out."""
    names = tuple(spec.name for spec in load_catalog().resolve([SUITE]))
    given = {"suite": SUITE, "datasets": names, "backbone": "demo", "device": "cpu"}
    for recipe in RECIPES:
        configs = grid({**given, "recipe": recipe}, methods=methods, shots=shots, seeds=range(1, seeds + 1))
        yield (
            recipe,
            [
                config
                for config in configs
                if recipe != "released" or config.recipe and config.recipe.steps_per_batch > 1
            ],
        )


def score_table(scores: Scores, methods: Sequence[str], shots: Sequence[int]) -> Iterator[str]:
    """Rows of means and deviations."""
    yield "| suite score (%) | " + " | ".join(map(shots_label, shots)) + " |"
    yield "|---" * (len(shots) + 1) + "|"
    for method, recipe in product(methods, RECIPES):
        if (method, recipe, shots[0]) in scores:
            cells = (mean_and_std(scores[method, recipe, number]) for number in shots)
            yield f"| {method}, {recipe} | " + " | ".join(f"{mean:.1f} ± {std:.1f}" for mean, std in cells) + " |"


def difference_table(scores: Scores, methods: Sequence[str], shots: Sequence[int]) -> Iterator[str]:
    """Rows of paired differences: recipes of a method, then softcpt against the others by each recipe."""
    yield "| difference, 95 % interval | " + " | ".join(map(shots_label, shots)) + " |"
    yield "|---" * (len(shots) + 1) + "|"
    recipes = [((method, recipe), (method, "paper")) for method in methods for recipe in RECIPES if recipe != "paper"]
    rivals = [
        (("softcpt", recipe), (other, "paper" if (other, recipe, shots[0]) not in scores else recipe))
        for recipe in RECIPES
        for other in methods
        if other != "softcpt" and "softcpt" in methods
    ]
    for one, other in recipes + rivals:
        if (*one, shots[0]) in scores:
            cells = (paired_interval(scores[(*one, number)], scores[(*other, number)]) for number in shots)
            words = " | ".join(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in cells)
            yield f"| {', '.join(one)} - {', '.join(other)} | {words} |"


def main() -> None:
    """Train what is missing, then print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache_dir", type=Path, nargs="?", default=Path("demo/cache"))
    parser.add_argument("--out", type=Path, default=Path("compare"))
    parser.add_argument("--methods", nargs="+", default=["softcpt", "coop-ca", "coop-mt", "coop-cs"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    scores: Scores = {}
    for recipe, configs in plan(given.methods, given.shots, given.seeds):
        how = {"cache_dir": given.cache_dir, "out": given.out, "jobs": given.jobs}
        for config, result in zip(configs, run_all(configs, **how), strict=True):
            scores.setdefault((config.method, recipe, config.shots), []).append(100 * result["suite_score"])
    for table in (score_table, difference_table):
        print("\n".join(table(scores, given.methods, given.shots)) + "\n")


if __name__ == "__main__":
    main()
