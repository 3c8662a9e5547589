"""Every recorded case of the original implementations, through both text paths.

Tolerances of golden/README.md: logits and losses 1e-4 relative to the largest value, gradients 1e-3 in ||a-b||/||b||.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from golden_cases import (
    FOLDER,
    build_case,
    by_our_names,
    description,
    load_parameters,
    make_task,
    recording,
    single_task_problem,
    text_encoder,
)

from cptlite.classifiers import Transport
from cptlite.methods.base import Problem, PromptMethod, PromptOptions
from cptlite.methods.prompts.cocoop import CoCoOp
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.kgcoop import KgCoOp
from cptlite.methods.prompts.plot import Plot
from cptlite.methods.prompts.prograd import ProGrad, project
from cptlite.text.encoder import TEXT_PATHS
from cptlite.training.loop import learning_rate

STEPS = 10


def assert_close(ours: torch.Tensor | np.ndarray, recorded: np.ndarray, tolerance: float = 1e-4) -> None:
    ours = np.asarray(ours, dtype=np.float64).reshape(recorded.shape)
    assert np.abs(ours - recorded).max() <= tolerance * np.abs(recorded).max()


def check_case(method: PromptMethod, part: str, name: str, labels: torch.Tensor) -> None:
    """One case of a recording that holds several."""
    arrays = recording(part)
    case = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
    check_steps(method, case, torch.from_numpy(arrays["image_features"]), labels)


def check_steps(method: PromptMethod, case: dict[str, np.ndarray], images: torch.Tensor, labels: torch.Tensor) -> None:
    """Logits before any step, first gradients, losses of ten steps and logits after them."""
    assert_close(method.classifier_logits(images[0]).detach(), case["logits"])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = method.backward(images[step % 3], labels[step % 3])
        if step == 0:
            check_gradients(method, case)
        optimizer.step()
        losses.append(loss.item())
    assert_close(np.array(losses), case["losses"])
    assert_close(method.classifier_logits(images[0]).detach(), case["final_logits"])


def check_gradients(method: PromptMethod, case: dict[str, np.ndarray]) -> None:
    recorded = by_our_names(
        {key.removeprefix("grads/"): torch.from_numpy(value) for key, value in case.items() if key.startswith("grads/")}
    )
    for parameter, value in method.named_parameters():
        # With lincls nothing depends on the task prompts, which then have no gradient here and zeros there.
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        wanted = recorded[parameter].reshape(value.shape)
        assert (gradient - wanted).norm() <= 1e-3 * wanted.norm(), parameter


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("name", description("cases")["cases"])
def test_multi_task_case(name: str, path: str) -> None:
    method = build_case(name, path)
    labels = torch.from_numpy(recording("cases")["labels"]).long()  # (3, B, 2): task, class within the task
    offsets = torch.tensor(method.problem.offsets)
    check_case(method, "cases", name, offsets[labels[..., 0]] + labels[..., 1])


SINGLE: dict[str, Callable[[Problem, PromptOptions], PromptMethod]] = {
    "coop": partial(CoOp, sharing="all"),
    "cocoop": CoCoOp,
    "kgcoop": KgCoOp,
    "prograd": ProGrad,
}


def single_case(name: str, path: str) -> tuple[PromptMethod, torch.Tensor]:
    """Our method for one case of ``single``, started where the original started, and its labels (3, B)."""
    case = description("single")["cases"][name]
    options = PromptOptions(context_length=case["n_ctx"], context_init=case["ctx_init"])
    method = SINGLE[name](single_task_problem(path), options)
    load_parameters(method, recording("single"), f"{name}/init/", case["params"])
    labels = recording("single")["labels_prograd" if name == "prograd" else "labels"]
    return method, torch.from_numpy(labels).long()


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("name", SINGLE)
def test_single_task_case(name: str, path: str) -> None:
    method, labels = single_case(name, path)
    check_case(method, "single", name, labels)


def test_prograd_projects_at_the_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(gradient: torch.Tensor, general: torch.Tensor, strength: float) -> torch.Tensor:
        seen.append(bool((gradient * general).sum() < 0))
        return project(gradient, general, strength)

    monkeypatch.setattr("cptlite.methods.prompts.prograd.project", watched)
    method, labels = single_case("prograd", "fused")
    check_case(method, "single", "prograd", labels)
    assert seen == description("single")["cases"]["prograd"]["projected"]


def plot_case(path: str) -> tuple[Plot, dict[str, np.ndarray], torch.Tensor, torch.Tensor]:
    """Our method and a case of its one context, local features (3, B, M, D) and labels (3, B)."""
    facts, arrays = description("plot"), recording("plot")
    problem = Problem(tasks=(make_task("texture", facts["classes"]),), text=text_encoder(path))
    transport = Transport(eps=facts["eps"], iterations=facts["max_iter"], threshold=facts["thresh"])
    options = PromptOptions(context_length=facts["n_ctx"], position=facts["position"])
    method = Plot(problem, options, num_prompts=facts["N"], transport=transport)
    case = {**arrays, "grads/prompt_learner.ctx": arrays["grads"]}
    load_parameters(method, {"prompt_learner.ctx": arrays["init"]}, "", {"prompt_learner.ctx": facts["ctx_shape"]})
    # The pooled feature comes first, and takes no part.
    local = torch.from_numpy(arrays["features"])[:, 1:].transpose(1, 2)
    return method, case, local, torch.from_numpy(arrays["labels"])


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_plot(path: str) -> None:
    check_steps(*plot_case(path))


def test_zero_shot_text_features() -> None:
    facts = description("single")
    texts = [facts["template"].format(name.replace("_", " ")) for name in facts["classes"]]
    for path in TEXT_PATHS:
        assert_close(
            single_task_problem(path).text.encode_texts(texts),
            recording("single")["zeroshot_text_features"],
        )


@pytest.mark.parametrize("epochs", json.loads((FOLDER / "lr_schedule.json").read_text()))
def test_learning_rate_schedule(epochs: str) -> None:
    recorded = json.loads((FOLDER / "lr_schedule.json").read_text())[epochs]
    ours = [
        learning_rate(epoch, epochs=int(epochs), base=0.002, warmup_epochs=1, warmup_rate=1e-5)
        for epoch in range(int(epochs))
    ]
    np.testing.assert_allclose(ours, recorded, rtol=1e-9)
