"""Choose the ``fast`` recipe: batch size and learning rate by accuracy on the demo's validation rows.

    cptlite demo                          # makes the caches
    python scripts/choose_recipe.py demo/cache

Test rows are not read. Prints one line per candidate: mean accuracy over tasks, seeds and shots, and the time taken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean

import torch

from cptlite.backbone import load_backbone
from cptlite.cache import cache_path, open_cache
from cptlite.datasets import load_catalog
from cptlite.methods.base import FewShotRows, Problem, PromptMethod, PromptOptions
from cptlite.methods.table import find_method
from cptlite.rows import draw_few_shots
from cptlite.text import TextEncoder
from cptlite.training import Recipe, TrainingRun, put_learnables, take_learnables, train_together

METHODS = ("softcpt", "coop-ca", "coop-mt")
RUNS = tuple(product((4, 16), (1, 2, 3)))
CANDIDATES = {256: (0.005, 0.01, 0.02), 128: (0.005, 0.01, 0.02), 64: (0.002, 0.005), 32: (0.002,)}


@torch.no_grad()
def accuracy(method: PromptMethod, val: FewShotRows) -> float:
    """Mean over the tasks of the share of validation rows that are right."""
    problem, classifier = method.problem, method.classifier()
    stops = [*problem.offsets[1:], len(problem.class_names)]
    shares = []
    for start, stop in zip(problem.offsets, stops, strict=True):
        here = (val.labels >= start) & (val.labels < stop)
        best = classifier.scores(val.features[here, 0], slice(start, stop)).argmax(dim=-1)
        shares.append((best == val.labels[here] - start).float().mean().item())
    return mean(shares)


def try_recipe(name: str, problem: Problem, rows: Sequence[tuple[FewShotRows, FewShotRows]], recipe: Recipe) -> float:
    """Train a method with a recipe on every draw of rows, together; mean validation accuracy."""
    entry, variant = find_method(name)
    assert entry.prompts is not None
    runs = []
    for (_, seed), (train, _) in zip(RUNS, rows, strict=True):
        torch.manual_seed(seed)
        method = entry.prompts(problem, PromptOptions(), variant)
        runs.append(TrainingRun(learnables=take_learnables(method), rows=train, seed=seed))
    train_together(method, runs, recipe)
    scores = []
    for run, (_, val) in zip(runs, rows, strict=True):
        put_learnables(method, run.learnables)
        scores.append(accuracy(method, val))
    return mean(scores)


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
    for batch_size, rate in ((size, rate) for size, rates in CANDIDATES.items() for rate in rates):
        started = time.monotonic()
        scores = {name: try_recipe(name, problem, rows, Recipe(batch_size=batch_size, lr=rate)) for name in METHODS}
        each = "  ".join(f"{name} {100 * score:5.1f}" for name, score in scores.items())
        print(
            f"batch {batch_size:3d}  lr {rate:<5g}  mean {100 * mean(scores.values()):5.1f}  {each}"
            f"  {time.monotonic() - started:4.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/cache"))
