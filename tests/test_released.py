"""The released recipe against recordings of the authors' trainer: its rates, and 120 of its batches (20, plain).

The recording is of the demo's backbone: the one beside it, where it brings one, so that the demo's own may change.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import FOLDER, description, recording, start_from
from started import Started

from cptlite.backbones import load_backbone
from cptlite.config import resolve_config
from cptlite.datasets.types import Task
from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT, SoftCPTOptions
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.training.recipe import RELEASED, Recipe
from cptlite.training.state import TrainingState


def released(method: str = "softcpt", **given: Any) -> Recipe:
    named = {"method": method, "suite": "s", "datasets": ("d",), "backbone": "demo", "recipe": RELEASED}
    recipe = resolve_config({**named, **given}).recipe
    assert recipe is not None
    return recipe


SCHEDULES: dict[str, list[float]] = json.loads((FOLDER / "released_schedule.json").read_text())


@pytest.mark.parametrize("which", SCHEDULES)
def test_rates_are_those_of_the_released_scheduler(which: str) -> None:
    steps, epochs = map(int, re.findall(r"\d+", which))
    recipe = Recipe(steps_per_batch=steps, epochs=epochs)
    rates = [recipe.learning_rate(epoch) for epoch in range(epochs)]
    np.testing.assert_allclose(rates, SCHEDULES[which], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_takes_a_step_for_each_part_that_the_released_trainer_registers(variant: str) -> None:
    has_class_features = VARIANTS[variant][0]
    assert released(variant=variant) == Recipe(recipe=RELEASED, steps_per_batch=4 if has_class_features else 3)
    if has_class_features:
        assert released(variant=variant, freeze_class_context=True).steps_per_batch == 3
    assert released(variant=variant, steps_per_batch=2).steps_per_batch == 2


@pytest.mark.parametrize("method", ["coop-ca", "coop-cs", "coop-mt"])
def test_coop_registers_once(method: str) -> None:
    assert released(method) == Recipe(recipe=RELEASED)


def recorded_problem(path: str) -> Problem:
    """The tasks that were trained, with the text encoder that they were trained with."""
    own = FOLDER / "demo_clip.safetensors"
    backbone = load_backbone(str(own) if own.exists() else "demo", device="cpu")
    tasks = tuple(
        Task(
            id=task["id"],
            name=task["name"],
            class_names=tuple(task["classes"]),
            template=task["template"],
            metric=task["metric"],
        )
        for task in description("released")["tasks"]
    )
    return Problem(tasks=tasks, text=TextEncoder(backbone.text_tower, backbone.tokenizer, path))


def start(problem: Problem) -> Started:
    """SoftCPT as the recording began."""
    arrays = recording("released")
    params = {name.removeprefix("init/"): None for name in arrays if name.startswith("init/")}
    return start_from(SoftCPT(problem, SoftCPTOptions()), arrays, "init/", params)


def recorded_rows(problem: Problem) -> FewShotRows:
    arrays = recording("released")
    tasks, labels = arrays["labels"].T
    return FewShotRows(
        features=torch.from_numpy(arrays["features"].astype(np.float32))[:, None],
        labels=torch.from_numpy(np.array(problem.offsets)[tasks] + labels),
    )


@pytest.mark.parametrize("path", [pytest.param(path, marks=pytest.mark.slow) for path in TEXT_PATHS])
def test_batches_of_the_released_trainer(path: str, tmp_path: Path) -> None:
    arrays, problem = recording("released"), recorded_problem(path)
    started, rows = start(problem), recorded_rows(problem)
    state = TrainingState(started.learnables, rows, released(), seed=1, task_sizes=problem.task_sizes)
    losses = []
    for order in torch.from_numpy(arrays["order"][: 120 if path == "fused" else 20]):
        state.next_batch()  # sets the rate of its epoch; the rows are the recording's
        assert state.optimizer.param_groups[0]["lr"] == pytest.approx(arrays["lr"][state.epochs_done], rel=1e-6)
        loss, gradients = started.gradients(rows.features[order, 0], rows.labels[order])
        state.step(gradients, loss)
        losses.append(float(loss))
    apart = np.abs(np.array(losses) - arrays["losses"][: len(losses)]) / arrays["losses"].max()
    assert apart[:20].max() <= 3e-5
    assert apart[:100].max() <= 3e-4
    assert arrays["losses"][:5].mean() > 1.2 * arrays["losses"][-5:].mean(), "so that something was learned"
