"""Results as runs file them, made up: over all classes and tasks, from base to new classes, with a task held out."""

from __future__ import annotations

import json
from typing import Any

from cptlite.config import resolve_config
from cptlite.runs.predictions import suite_scores

TASKS = {"leaf": 0.2, "coin": 0.4, "shell": 0.9}


def run(scores: dict[str, dict[str, Any]], *, method: str = "coop-mt", seed: int = 1, **options: Any) -> dict[str, Any]:
    """Results as `execute_runs` writes them, of a run over some tasks."""
    named = {"method": method, "suite": "mine", "backbone": "demo", "datasets": list(scores)}
    config = resolve_config({**named, "shots": 4, "seed": seed, **options})
    return {
        **{key: getattr(config, key) for key in ("method", "suite", "backbone", "shots", "seed", "variant")},
        "recipe": config.recipe_name,
        "config": json.loads(json.dumps(config.to_json())),
        "caches": {},
        "tasks": scores,
        **suite_scores(scores),
        "parameters": 8,
        "seconds": {"train": 1.0},
    }


def whole(seed: int = 1, plus: float = 0.0, **options: Any) -> dict[str, Any]:
    return run({task: of_task(score + plus) for task, score in TASKS.items()}, seed=seed, **options)


def of_task(score: float, **more: Any) -> dict[str, Any]:
    return {"acc1": score, "mean_per_class_recall": score, "metric": "acc1", "rows": 10, **more}


def base(new: float = 0.2, seed: int = 1, **options: Any) -> dict[str, Any]:
    """A run from base to new classes, whose scores over all classes are half as high."""
    generalised = {"base": 0.4, "new": new / 2, "harmonic": 0.1}
    halves = {"base": 0.8, "new": new, "harmonic": 2 * 0.8 * new / (0.8 + new), "generalised": generalised}
    return run({task: of_task(0.3, **halves) for task in TASKS}, classes="base", seed=seed, **options)


def fold(*held_out: str, seed: int = 1, plus: float = 0.0, **options: Any) -> dict[str, Any]:
    marks = {task: {"held_out": True} if task in held_out else {} for task in TASKS}
    scores = {task: of_task(score + plus, **marks[task]) for task, score in TASKS.items()}
    return run(scores, seed=seed, held_out_tasks=held_out, **options)


EVERY = [whole(), whole(2), base(), base(0.4, 2), *(fold(task) for task in TASKS), fold("leaf", "coin")]
