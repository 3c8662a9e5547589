"""Choose the ``fast`` recipe by accuracy on the demo's validation rows: optimizer, batches, learning rate.

    cptlite demo                          # makes the caches
    python scripts/choose_recipe.py demo/cache

Test rows are not read. Prints one line per candidate: accuracy in percent, mean over tasks, seeds and shots, then by
method and number of shots; and the time taken. The first is the paper's recipe.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import torch

from cptlite.backbones import load_backbone
from cptlite.cache import cache_path, open_cache
from cptlite.classifiers import Classifier
from cptlite.datasets import load_catalog
from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.table import find_method
from cptlite.runs.rows import draw_few_shots
from cptlite.text.encoder import TextEncoder
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

METHODS = ("softcpt", "coop-ca", "coop-mt")
SHOTS = (1, 4, 16)
SEEDS = (1, 2, 3)
RUNS = tuple(product(SHOTS, SEEDS))
CANDIDATES = (
    Recipe(),
    Recipe(batch_size=256, lr=0.004),
    Recipe(batch_size=256, lr=0.016),
    *(Recipe(batch_size=256, optimizer="adamw", lr=lr) for lr in (0.001, 0.002)),
    *(Recipe(batch_size=256, least_steps=6, optimizer="adamw", lr=lr) for lr in (0.0005, 0.001)),
    *(Recipe(batch_size=256, least_steps=12, optimizer="adamw", lr=lr) for lr in (0.0005, 0.001)),
)


@torch.no_grad()
def accuracy(classifier: Classifier, problem: Problem, val: FewShotRows) -> float:
    """Mean over the tasks of the share of validation rows that are right."""
    shares = []
    for start, stop in problem.class_ranges:
        here = (val.labels >= start) & (val.labels < stop)
        best = classifier.scores(val.features[here, 0], slice(start, stop)).argmax(dim=-1)
        shares.append((best == val.labels[here] - start).float().mean().item())
    return mean(shares)


def try_recipe(
    name: str, problem: Problem, rows: Sequence[tuple[FewShotRows, FewShotRows]], recipe: Recipe
) -> dict[int, float]:
    """Train a method with a recipe on every draw of rows, together; mean validation accuracy by number of shots."""
    entry = find_method(name)
    method = entry.method(problem, entry.new_options(), len(RUNS))
    states = [
        TrainingState(
            method.start(torch.Generator().manual_seed(seed)),
            train_rows,
            recipe,
            seed=seed,
            num_classes=len(problem.class_names),
        )
        for (_, seed), (train_rows, _) in zip(RUNS, rows, strict=True)
    ]
    train(method, states)
    scores: dict[int, list[float]] = {shots: [] for shots in SHOTS}
    for state, (shots, _), (_, val) in zip(states, RUNS, rows, strict=True):
        scores[shots].append(accuracy(method.classifier(state.learnables), problem, val))
    return {shots: mean(each) for shots, each in scores.items()}


def main(cache_dir: Path) -> None:
    """Try every candidate."""
    backbone = load_backbone("demo", device="cpu")
    names = [spec.name for spec in load_catalog().resolve(["demo"])]
    caches = [open_cache(cache_path(cache_dir, backbone.slug, name), {}) for name in names]
    problem = Problem(
        tasks=tuple(task for cache in caches for task in cache.tasks),
        text=TextEncoder(backbone.text_tower, backbone.tokenizer),
    )
    rows = [draw_few_shots(caches, shots=shots, seed=seed, device=backbone.device) for shots, seed in RUNS]
    print(
        f"{'optimizer':9} {'batch':>5} {'steps':>5} {'lr':>6} {'mean':>5}",
        *(f"{name:>17}" for name in METHODS),
        f"at {SHOTS} shots",
    )
    for recipe in CANDIDATES:
        started = time.monotonic()
        scores = [try_recipe(name, problem, rows, recipe) for name in METHODS]
        each = ["".join(f"{100 * by_shots[shots]:6.1f}" for shots in SHOTS) for by_shots in scores]
        total = 100 * mean(mean(by_shots.values()) for by_shots in scores)
        seconds = time.monotonic() - started
        facts = f"{recipe.optimizer:9} {recipe.batch_size:5d} {recipe.least_steps:5d} {recipe.lr:6g}"
        print(facts, f"{total:5.1f}", *each, f"{seconds:5.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/cache"))
