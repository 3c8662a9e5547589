"""What the table takes, by timed steps, before anything is there: tasks of the suite's size stand in for its data.

Axes: K classes of all tasks, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cptlite.backbones import Backbone
from cptlite.config import RunConfig
from cptlite.datasets import DatasetSpec, DatasetStatus, dataset_status, read_dataset
from cptlite.datasets.locate import find_dataset
from cptlite.datasets.types import Task
from cptlite.doctor import Finding
from cptlite.drawings import TASKS
from cptlite.errors import CptliteError
from cptlite.methods.base import Problem
from cptlite.reproduction.needs import check_needs, weights_are_missing
from cptlite.reproduction.target import DEMO, Target, load_shared
from cptlite.runs.estimate import estimate_on
from cptlite.runs.sweep import group_runs
from cptlite.runs.sweep_run import Share, is_filed
from cptlite.text.encoder import TextEncoder
from cptlite.timing.sizes import suite_names
from cptlite.timing.tasks import make_problem

__all__ = ["Forecast", "Outlook", "look_ahead"]

NUMBER_BYTES = 2  # float16
BATCH = 32  # images that are encoded to see how long one takes


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the caches of a suite take.

    Attributes
    ----------
    images : int
        To be encoded, every view counted.
    seconds : float
        That takes, by a timed batch; reading files is not in it.
    cache_bytes : int
    unknown : tuple of str
        Datasets that are not here and whose size is not in the catalogue: nothing of these is counted.
    """

    images: int
    seconds: float
    cache_bytes: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What there is and what it takes.

    Attributes
    ----------
    findings : list of Finding
        Of `check_needs`.
    caching : Forecast
    shares : list of Share
        The runs by configuration, what is left of them and how long that takes.
    """

    findings: list[Finding]
    caching: Forecast
    shares: list[Share]


def look_ahead(target: Target, configs: Sequence[RunConfig], *, views: int, patches: bool) -> Outlook:
    """Check what is needed, and time what it takes, by random weights where the real ones are not here yet.

    Parameters
    ----------
    target : Target
    configs : sequence of RunConfig
        Its runs.
    views : int
        V of a training image in the caches.
    patches : bool
        Whether every image's plain view has its patch features kept.
    """
    name, cached = target.backbone, target.cached()
    encoder = load_shared(f"random:{name}" if weights_are_missing(name) else name)
    missing = [dataset_status(spec, target.root) for spec in target.specs if spec.name not in cached]
    caching = foresee(missing, encoder, views=views, patches=patches)
    tasks = suite_tasks(target.suite, target.specs, target.root, encoder)
    return Outlook(
        findings=list(check_needs(target, missing, caching.cache_bytes)),
        caching=caching,
        shares=list(foresee_runs(configs, encoder, tasks, target.out)),
    )


def suite_tasks(suite: str, specs: Sequence[DatasetSpec], root: Path, backbone: Backbone) -> tuple[Task, ...]:
    """Tasks of a suite as its files have them, or, where some are missing, of its published size with made-up names.

    Raises
    ------
    UsageError
        Files are missing, and the suite's size is not known.
    """
    if suite == DEMO:  # drawn by code
        names: Mapping[str, Sequence[str]] = {folder: task.class_names for folder, task in TASKS.items()}
    elif all(find_dataset(spec, root) for spec in specs):
        return tuple(task for spec in specs for task in read_dataset(spec, root).tasks)
    else:
        names = suite_names(suite, backbone.tokenizer)
    return make_problem(backbone, names).tasks


def foresee(missing: Sequence[DatasetStatus], backbone: Backbone, *, views: int, patches: bool) -> Forecast:
    """Count and time what encoding datasets takes: their images as found, else as the catalogue counts them.

    Parameters
    ----------
    missing : sequence of DatasetStatus
        Those that are not cached yet.
    backbone : Backbone
    views : int
        V of a training image.
    patches : bool
        Whether every image's plain view has its patch features kept.
    """
    counts = {each.spec.name: each.counts or each.spec.counts for each in missing}
    known = [each for each in counts.values() if each]
    train, others = sum(each[0] for each in known), sum(sum(each[1:]) for each in known)
    images = train * views + others
    numbers = images * backbone.embed_dim
    if patches:
        numbers += (train + others) * backbone.num_patches * backbone.embed_dim
    pixels = torch.zeros(BATCH, 3, backbone.resolution, backbone.resolution, device=backbone.device)
    seconds = 0.0
    for _ in range(2 if images else 0):  # the first makes ready
        started = time.monotonic()
        backbone.encode_images(pixels).sum().item()
        seconds = time.monotonic() - started
    return Forecast(
        images=images,
        seconds=images * seconds / BATCH,
        cache_bytes=numbers * NUMBER_BYTES,
        unknown=tuple(name for name, each in counts.items() if not each),
    )


def foresee_runs(configs: Sequence[RunConfig], backbone: Backbone, tasks: Sequence[Task], out: Path) -> Iterator[Share]:
    """Say what is left of each configuration's runs and how long it takes, as `cptlite.runs.sweep_run.forecast` does.

    Every class is taken to have as many images as shots.
    """
    for group in group_runs(configs):
        first, left = group[0], [config for config in group if not is_filed(out, config)]
        share = Share(configs=group, left=left)
        if left and first.recipe is not None:
            rows = {config.shots: [np.full(len(task.class_names), config.shots) for task in tasks] for config in left}
            text = TextEncoder(backbone.text_tower, backbone.tokenizer, first.text_path, memory=first.text_memory)
            problem = Problem(tasks=tuple(tasks), text=text)
            patches = backbone.num_patches if first.entry.needs_patches else 0
            try:
                found = estimate_on(left, backbone, problem, rows, patches)
                share = replace(share, seconds=found.steps * found.step_seconds)
            except CptliteError as error:
                share = replace(share, problem=str(error))
        yield share
