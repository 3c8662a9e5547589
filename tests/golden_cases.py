"""Reads recordings of the original implementations and builds our counterpart of each case.

The folder and the files' prefix come from CPTLITE_GOLDEN_DIR and CPTLITE_GOLDEN_TAG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from started import Started
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.backbones.linear import find_linear_backend, freeze_blocks, runnable_backends
from cptlite.backbones.weights import build_clip
from cptlite.datasets.types import Task
from cptlite.methods.base import Problem, PromptMethod
from cptlite.methods.batches import Batch
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT, SoftCPTOptions
from cptlite.text.encoder import TEXT_PATHS, TextEncoder

STEPS = 10
FOLDER = Path(os.environ.get("CPTLITE_GOLDEN_DIR", Path(__file__).parent / "golden"))
TAG = os.environ.get("CPTLITE_GOLDEN_TAG", "dev")
STEPS = 10


@cache
def recording(part: str, room: str = "") -> dict[str, np.ndarray]:
    """Arrays of one recording, such as ``cases`` or ``single``, perhaps in a folder below."""
    with np.load(FOLDER / room / f"{TAG}_{part}.npz") as arrays:
        return dict(arrays)


@cache
def description(part: str, room: str = "") -> dict[str, Any]:
    """What the JSON says about one recording."""
    return json.loads((FOLDER / room / f"{TAG}_{part}.json").read_text())


@cache
def golden_backbone(linear_backend: str = "auto", *, fill: bool = True) -> Backbone:
    """The small CLIP the recordings were made with, float32, its linear layers run by one of the backends.

    Tokens that no recording here uses are zeros there, so that other words would all be one: where they are to be
    filled, they get vectors too.
    """
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in recording("clip").items()}
    tokens = state["token_embedding.weight"]
    used = tokens.any(dim=1, keepdim=True)
    drawn = tokens[used[:, 0]].std() * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    state["token_embedding.weight"] = tokens.where(used, drawn) if fill else tokens
    model = build_clip(state, "golden").requires_grad_(False).eval()
    linear = find_linear_backend(linear_backend, torch.device("cpu"), torch.float32)
    freeze_blocks(model, linear)
    return Backbone(name="golden", weights_sha256="", precision="float32", linear_backend=linear, model=model)


EVERY_WAY = [
    f"{path} by {backend}" for path in TEXT_PATHS for backend in runnable_backends(torch.device("cpu"), torch.float32)
]
"""Both text paths by every linear backend that is here: the rule picks one of these."""


def text_encoder(way: str, *, fill: bool = True) -> TextEncoder:
    """The recordings' text encoder through one of the text paths, or one of `EVERY_WAY`."""
    path, _, linear_backend = way.partition(" by ")
    backbone = golden_backbone(linear_backend or "auto", fill=fill)
    return TextEncoder(backbone.text_tower, backbone.tokenizer, path)


def make_task(name: str, classes: list[str], template: str = "a photo of a {}.") -> Task:
    """A task as the originals saw it."""
    return Task(id=name, name=name, class_names=tuple(classes), template=template, metric="acc1")


@cache
def multi_task_problem(path: str) -> Problem:
    """The four tasks of ``cases``."""
    tasks = tuple(make_task(task["name"], task["classes"]) for task in description("cases")["tasks"])
    return Problem(tasks=tasks, text=text_encoder(path))


@cache
def single_task_problem(path: str) -> Problem:
    """The one task of ``single``."""
    facts = description("single")
    task = make_task(facts["task"], facts["classes"], facts["template"])
    return Problem(tasks=(task,), text=text_encoder(path))


def build_case(name: str, path: str) -> Started:
    """Our method for one case of ``cases``, started where the original started."""
    case = description("cases")["cases"][name]
    said = case["options"]
    shared = {"context_length": said["N_CTX"], "position": said.get("TOKEN_POSITION", "end")}
    problem = multi_task_problem(path)
    if case["method"] == "softcpt":
        flags = tuple(bool(said.get(flag)) for flag in ("CSC", "CLASS_CSC", "TASK_CSC"))
        method: PromptMethod = SoftCPT(
            problem,
            SoftCPTOptions(
                **shared,
                variant=next(variant for variant, value in VARIANTS.items() if value == flags),
                task_context_length=said.get("TASK_N_CTX", 4),
                class_context_length=said.get("CLASS_N_CTX", 4),
                task_context_init=said.get("TASK_CTX_INIT", ""),
                sub_network=said.get("PG_TYPE", "lin"),
            ),
        )
    else:
        sharing = "task" if said.get("TSC") else "class" if said.get("CSC") else "all"
        method = CoOp(problem, PromptOptions(**shared, context_init=said.get("CTX_INIT", "")), sharing=sharing)
    return start_from(method, recording("cases"), f"{name}/init/", case["params"])


def start_from(
    method: PromptMethod,
    arrays: dict[str, np.ndarray],
    prefix: str,
    params: Iterable[str],
    named: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Started:
    """A method started from recorded parameters."""
    started = Started(method)
    recorded = (named or by_our_names)({param: torch.from_numpy(arrays[prefix + param]) for param in params})
    assert recorded.keys() == started.learnables.keys()
    for name, value in recorded.items():
        ours = started.learnables[name]
        assert ours.numel() == value.numel(), name
        ours.data.copy_(value.reshape(ours.shape))
    return started


def assert_close(ours: Tensor | np.ndarray, recorded: np.ndarray, tolerance: float = 1e-4) -> None:
    """Differences are within a share of the largest recorded value."""
    ours = np.asarray(ours, dtype=np.float64).reshape(recorded.shape)
    assert np.abs(ours - recorded).max() <= tolerance * np.abs(recorded).max()


def check_steps(
    started: Started,
    case: dict[str, np.ndarray],
    images: Tensor,
    labels: Tensor,
    *,
    named: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    logits_within: float = 1e-4,
    gradients_within: float = 1e-3,
    losses_within: float = 1e-4,
    scored: bool = False,
) -> None:
    """Logits before any step, first gradients, losses of ten steps and logits after them, within some tolerances.

    Gradients are recorded under the originals' names, which ``named`` makes ours of. The logits are those that the loss
    is of where it is ``scored``, which may be others than a classifier's.
    """

    def logits() -> Tensor:
        if not scored:
            return started.logits(images[0]).detach()
        ((scores, _),) = started.method.score(started.stacked(), Batch(images=images[:1], labels=labels[:1]))
        return scores[0].detach()

    assert_close(logits(), case["logits"], logits_within)
    optimizer = optimizer or torch.optim.SGD(started.learnables.values(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(STEPS):
        loss, gradients = started.gradients(images[step % 3], labels[step % 3])
        if step == 0:
            recorded = {key.removeprefix("grads/"): value for key, value in case.items() if key.startswith("grads/")}
            tensors = {name: torch.from_numpy(value) for name, value in recorded.items()}
            check_gradients(started, gradients, (named or by_our_names)(tensors), gradients_within)
        for name, gradient in gradients.items():
            started.learnables[name].grad = gradient
        optimizer.step()
        losses.append(loss.item())
    assert_close(np.array(losses), case["losses"], losses_within)
    assert_close(logits(), case["final_logits"], logits_within)


def check_gradients(
    started: Started, gradients: dict[str, Tensor], recorded: dict[str, Tensor], tolerance: float
) -> None:
    """Every gradient within a share of its recorded length."""
    assert recorded.keys() == started.learnables.keys()
    for name, value in started.learnables.items():
        wanted = recorded[name].reshape(value.shape)
        # With lincls nothing depends on the task prompts, which then have no gradient here and zeros there.
        gradient = gradients.get(name, torch.zeros_like(value))
        assert (gradient - wanted).norm() <= tolerance * wanted.norm(), name


def by_our_names(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Recorded tensors under our parameter names; the originals' per-task learners stacked."""
    ours = {
        "task_prompt_learner.ctx": "task_context",
        "class_prompt_learner.ctx": "class_context",
        "prompt_gen.proj": "projection",
        "prompt_learner.ctx": "context",
        "ctx": "context",
        "w": "correction",
        "prompt_learner.meta_net.linear1.weight": "hidden.weight",
        "prompt_learner.meta_net.linear1.bias": "hidden.bias",
        "prompt_learner.meta_net.linear2.weight": "shift.weight",
        "prompt_learner.meta_net.linear2.bias": "shift.bias",
    }
    named = {ours[name]: value for name, value in recorded.items() if name in ours}
    learners = [value for name, value in sorted(recorded.items(), key=_learner_index) if ".learners." in name]
    if learners:
        named["context"] = torch.stack(learners)
    return named


def _learner_index(item: tuple[str, Tensor]) -> int:
    digits = [part for part in item[0].split(".") if part.isdecimal()]
    return int(digits[0]) if digits else -1
