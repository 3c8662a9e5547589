"""Every recorded case of the original implementations, through both text paths.

Tolerances of golden/README.md: logits and losses 1e-4 relative to the largest value, gradients 1e-3 in ||a-b||/||b||.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden_cases import (
    EVERY_WAY,
    FOLDER,
    assert_close,
    build_case,
    check_steps,
    description,
    make_task,
    recording,
    single_task_problem,
    start_from,
    text_encoder,
)
from started import Started

from cptlite.methods.base import Problem, PromptMethod
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.cocoop import CoCoOp, CoCoOpOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.kgcoop import KgCoOp, KgCoOpOptions
from cptlite.methods.prompts.plot import Plot, PlotOptions
from cptlite.methods.prompts.prograd import ProGrad, ProGradOptions, project
from cptlite.training.recipe import Recipe


def check_case(started: Started, part: str, name: str, labels: torch.Tensor) -> None:
    """One case of a recording that holds several."""
    arrays = recording(part)
    case = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
    check_steps(started, case, torch.from_numpy(arrays["image_features"]), labels)


@pytest.mark.parametrize("path", EVERY_WAY)
@pytest.mark.parametrize("name", description("cases")["cases"])
def test_multi_task_case(name: str, path: str) -> None:
    started = build_case(name, path)
    labels = torch.from_numpy(recording("cases")["labels"]).long()  # (3, B, 2): task, class within the task
    offsets = torch.tensor(started.method.problem.offsets)
    check_case(started, "cases", name, offsets[labels[..., 0]] + labels[..., 1])


SINGLE: dict[str, Callable[..., PromptMethod]] = {
    "coop": lambda problem, **given: CoOp(problem, PromptOptions(**given), sharing="all"),
    "cocoop": lambda problem, **given: CoCoOp(problem, CoCoOpOptions(**given)),
    "kgcoop": lambda problem, **given: KgCoOp(problem, KgCoOpOptions(**given)),
    "prograd": lambda problem, **given: ProGrad(problem, ProGradOptions(**given)),
}

OUR_OPTIONS = {"w": "strength", "lambda": "strength", "T": "temperature"}
"""Names of options by those of the originals."""


def single_case(name: str, path: str) -> tuple[Started, torch.Tensor]:
    """Our method for one case of ``single``, started where the original started, and its labels (3, B)."""
    case = description("single")["cases"][name]
    given = {OUR_OPTIONS[option]: value for option, value in case["options"].items()}
    method = SINGLE[name](
        single_task_problem(path), context_length=case["n_ctx"], context_init=case["ctx_init"], **given
    )
    labels = recording("single")["labels_prograd" if name == "prograd" else "labels"]
    return start_from(method, recording("single"), f"{name}/init/", case["params"]), torch.from_numpy(labels).long()


@pytest.mark.parametrize("path", EVERY_WAY)
@pytest.mark.parametrize("name", SINGLE)
def test_single_task_case(name: str, path: str) -> None:
    started, labels = single_case(name, path)
    check_case(started, "single", name, labels)


def test_prograd_projects_at_the_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(gradient: torch.Tensor, general: torch.Tensor, strength: float) -> torch.Tensor:
        seen.append(bool((gradient * general).sum() < 0))
        return project(gradient, general, strength)

    monkeypatch.setattr("cptlite.methods.prompts.prograd.project", watched)
    started, labels = single_case("prograd", "fused")
    check_case(started, "single", "prograd", labels)
    assert seen == description("single")["cases"]["prograd"]["projected"]


def plot_case(path: str) -> tuple[Started, dict[str, np.ndarray], torch.Tensor, torch.Tensor]:
    """Our method and a case of its one context, patch features (3, B, M, D) and labels (3, B)."""
    facts, arrays = description("plot"), recording("plot")
    problem = Problem(tasks=(make_task("texture", facts["classes"]),), text=text_encoder(path))
    options = PlotOptions(
        context_length=facts["n_ctx"],
        position=facts["position"],
        num_prompts=facts["N"],
        eps=facts["eps"],
        iterations=facts["max_iter"],
        threshold=facts["thresh"],
    )
    started = start_from(
        Plot(problem, options),
        {"prompt_learner.ctx": arrays["init"]},
        "",
        {"prompt_learner.ctx": facts["ctx_shape"]},
    )
    case = {**arrays, "grads/prompt_learner.ctx": arrays["grads"]}
    # The pooled feature comes first, and takes no part.
    local = torch.from_numpy(arrays["features"])[:, 1:].transpose(1, 2)
    return started, case, local, torch.from_numpy(arrays["labels"])


@pytest.mark.parametrize("path", EVERY_WAY)
def test_plot(path: str) -> None:
    check_steps(*plot_case(path))


def test_zero_shot_text_features() -> None:
    facts = description("single")
    texts = [facts["template"].format(name.replace("_", " ")) for name in facts["classes"]]
    for path in EVERY_WAY:
        assert_close(
            single_task_problem(path).text.encode_texts(texts),
            recording("single")["zeroshot_text_features"],
        )


@pytest.mark.parametrize("epochs", json.loads((FOLDER / "lr_schedule.json").read_text()))
def test_learning_rate_schedule(epochs: str) -> None:
    recorded = json.loads((FOLDER / "lr_schedule.json").read_text())[epochs]
    recipe = Recipe(epochs=int(epochs), lr=0.002, warmup_epochs=1, warmup_lr=1e-5)
    np.testing.assert_allclose([recipe.learning_rate(epoch) for epoch in range(recipe.epochs)], recorded, rtol=1e-9)
