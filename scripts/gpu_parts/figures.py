"""What ``cptlite bench`` measures, at a GPU's sizes: trainings, the text path, the pass, runs together, memory.

Axes: R runs trained together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from cptlite.environment import usable_cores
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.softcpt import SoftCPT, SoftCPTOptions
from cptlite.text.encoder import TEXT_MEMORY, TextEncoder
from cptlite.timing.clock import peak_mib
from cptlite.timing.tasks import make_problem, make_rows
from cptlite.training.recipe import FULL, PAPER, Recipe
from gpu_parts.setting import Row, Setting

__all__ = ["full_batches", "memory", "the_pass", "together", "training", "ways"]

TRAINING_SECONDS = 300.0  # of a whole one; what would take longer is cut to fewer epochs, and says so
IMAGES_OF_A_CORE = 256
RUNS_TOGETHER = (2, 4, 8, 15)
MEMORIES = (TEXT_MEMORY, 1.0, 0.25)  # GiB


def training(setting: Setting, *, suite: str, runs: int) -> Iterator[Row]:
    """Time a whole training by the paper's recipe, alone and with others: `cptlite.timing.train`."""
    (probe, *_) = setting.bench("train", [suite], runs=1, epochs=1)
    most = int(TRAINING_SECONDS / (probe["epoch_s"] * runs))
    epochs = 1 if setting.small else max(1, min(Recipe.epochs, most))
    for row in setting.bench("train", [suite], runs=runs, epochs=epochs, repeats=1):
        yield {**row, "recipe": PAPER, "epochs": epochs, "training_s": epochs * row["epoch_s"] * row["runs"]}


def full_batches(setting: Setting) -> Iterator[Row]:
    """Time a whole training of each suite by the full recipe, all rows in every step."""
    for suite in setting.suites:
        for row in setting.bench("train", [suite], runs=1, recipe=FULL, repeats=1, epochs=2 * setting.small):
            yield {**row, "recipe": FULL, "training_s": row["steps_timed"] * row["step_s"]}


def together(setting: Setting) -> Iterator[Row]:
    """Time steps of R runs as an axis of one forward."""
    for suite in setting.suites[-2:]:
        for runs in RUNS_TOGETHER[:1] if setting.small else RUNS_TOGETHER:
            yield from setting.bench("train", [suite], runs=runs, epochs=1 if setting.small else 4, repeats=1)


def ways(setting: Setting) -> Iterator[Row]:
    """Time the text path against the original's way."""
    yield from setting.bench("text", setting.suites, class_fraction=0.25)


def the_pass(setting: Setting, *, backbone: str) -> Iterator[Row]:
    """From image files to the cache, against the encoder fed from memory."""
    images = 2 if setting.small else IMAGES_OF_A_CORE * usable_cores()
    yield from setting.bench("cache", backbone=backbone, images=images)


def memory(setting: Setting) -> Iterator[Row]:
    """Measure what a step holds at most, by runs together and by the text path's bound, which it is to keep."""
    backbone = setting.backbone()
    for suite in setting.suites:
        names = setting.names(suite, backbone)
        for runs in (1, 2) if setting.small else (1, 5, 15):
            for bound in MEMORIES:
                setting.tell(f"{suite}, {runs} together, {bound:g} GiB")
                tower, tokenizer = backbone.text_tower, backbone.tokenizer
                problem = Problem(
                    tasks=make_problem(backbone, names).tasks, text=TextEncoder(tower, tokenizer, memory=bound)
                )
                method = SoftCPT(problem, SoftCPTOptions(), runs)
                starts = [method.start(torch.Generator().manual_seed(seed)) for seed in range(runs)]
                stacked = {
                    name: torch.stack([start[name].detach() for start in starts]).requires_grad_() for name in starts[0]
                }
                rows = make_rows(backbone, len(problem.class_names), 1, seed=1)
                images = rows.features[None, : Recipe.batch_size, 0].repeat(runs, 1, 1)
                labels = rows.labels[None, : Recipe.batch_size].repeat(runs, 1)
                step = partial(method.gradients, stacked, Batch(images=images, labels=labels))
                step()
                peak, seconds = peak_mib(step, setting.place)
                yield {"suite": suite, "runs": runs, "text_memory_gib": bound, "peak_mib": peak, "step_s": seconds}
