"""How long a training takes, by a timed step, before it is begun.

Axes: R runs trained together, T tasks, K classes of all tasks, B images of a batch, M patches of an image, D joint
dimension.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache
from cptlite.config import RunConfig
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.runs.execute import new_problems
from cptlite.runs.learn import naming_memory
from cptlite.runs.rows import check_caches, check_text, count_images
from cptlite.shots import mean_shots
from cptlite.training.recipe import FULL, RECIPES, Recipe

__all__ = ["Estimate", "estimate", "estimate_on"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What some runs will take.

    Attributes
    ----------
    steps, full_steps : int
        As configured, and by the full recipe; 0 of a method that has no other recipe than its own.
    step_seconds : float
        Of one.
    """

    steps: float
    full_steps: float
    step_seconds: float


def estimate(configs: Sequence[RunConfig], backbone: Backbone, caches: Sequence[FeatureCache]) -> Estimate | None:
    """Time a step of a method and count those to come; nothing is learned, no test row read and nothing drawn.

    Parameters
    ----------
    configs : sequence of RunConfig
        Of one method, on the same classes.
    backbone : Backbone
    caches : sequence of FeatureCache

    Raises
    ------
    DataError, UsageError
        What the runs would end with as they begin.

    Returns
    -------
    Estimate or None
        None for a method that is fitted at once. Of tasks that are learned separately the one with most classes is
        timed, and a step of another counts as its share of these.
    """
    first = configs[0]
    if first.recipe is None:
        return None
    check_text(first, backbone)
    check_caches(caches, configs)
    problem, _ = new_problems(first, backbone, caches)
    rows = {config.shots: count_images(caches, config) for config in configs}
    patches = caches[0].patches("train", [0]).shape[1] if first.entry.needs_patches else 0
    return estimate_on(configs, backbone, problem, rows, patches)


def estimate_on(
    configs: Sequence[RunConfig],
    backbone: Backbone,
    problem: Problem,
    rows: Mapping[int, Sequence[np.ndarray]],
    patches: int = 0,
) -> Estimate:
    """Time a step of a method on tasks whose images need not be there; see `estimate`.

    Parameters
    ----------
    configs : sequence of RunConfig
        Of one method that learns by steps.
    backbone : Backbone
    problem : Problem
        What is learned.
    rows : mapping of int to sequence of ndarray
        By shots, training rows of each class (C,) of each task.
    patches : int
        M of an image, for a method that reads them.
    """
    first = configs[0]
    assert first.recipe is not None
    timed = problem
    if first.separate:
        timed = replace(problem, tasks=(max(problem.tasks, key=lambda task: len(task.class_names)),))
    full = None if first.entry.recipe else Recipe(recipe=FULL, **RECIPES[FULL])
    largest = max((max if first.separate else sum)(of.sum() for of in of_task) for of_task in rows.values())
    with naming_memory(timed, first, 1):
        seconds = _time_step(first, timed, backbone, int(largest), patches)
    return Estimate(
        steps=sum(_steps(config, first.recipe, problem, rows[config.shots]) for config in configs),
        full_steps=sum(_steps(config, full, problem, rows[config.shots]) for config in configs) if full else 0,
        step_seconds=seconds,
    )


def _steps(config: RunConfig, recipe: Recipe, problem: Problem, rows: Sequence[np.ndarray]) -> float:
    """Count the steps of a run on so many rows of each class (C,) of T tasks, in steps of what is timed."""
    parts = rows if config.separate else [np.concatenate(rows)]
    steps = [recipe.at(mean_shots(part, config.shots)).steps_on(int(part.sum())) for part in parts]
    if not config.separate:
        return steps[0]
    shares = [size / max(problem.task_sizes) for size in problem.task_sizes]
    return sum(count * share for count, share in zip(steps, shares, strict=True))


def _time_step(config: RunConfig, problem: Problem, backbone: Backbone, rows: int, patches: int) -> float:
    """Seconds of a step on made-up features, after one that makes ready."""
    assert config.recipe is not None
    method = config.entry.method(problem, config.options)
    start = method.start(torch.Generator().manual_seed(config.seed))
    learnables = {name: value.detach()[None].requires_grad_(value.requires_grad) for name, value in start.items()}
    size, draw = config.recipe.batch_of(rows), torch.Generator().manual_seed(0)
    shape = (1, size, patches, backbone.embed_dim) if patches else (1, size, backbone.embed_dim)
    images = torch.randn(shape, generator=draw)  # (R, B, D) or (R, B, M, D)
    labels = torch.randint(len(problem.class_names), (1, size), generator=draw)  # (R, B)
    batch = Batch(images=images, labels=labels).map(lambda tensor: tensor.to(backbone.device))
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        loss, _ = method.gradients(learnables, batch)
        loss.tolist()  # waits for the device
        seconds = time.monotonic() - started
    return seconds
