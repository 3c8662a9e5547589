"""A prompt method of a few lines on random class weights, and runs of it: the training room without a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers.linear import LinearClassifier, exp32
from cptlite.datasets.types import Task
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

__all__ = ["DIM", "NUM_CLASSES", "TASKS", "Killed", "ResidualMethod", "learned", "new_state", "raise_at", "rows_of"]

DIM = 128  # of `random:demo` too
TASKS = (
    Task(id="a", name="animal", class_names=("cat", "dog"), template="a {}.", metric="acc1"),
    Task(id="b", name="fruit", class_names=("fig", "kiwi", "plum"), template="a {}.", metric="acc1"),
)
NUM_CLASSES = 5


class ResidualMethod(PromptMethod):
    """Random class weights with a learned residual each, and a shift of all of them that is not learned."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        tower = SimpleNamespace(logit_scale=2.0, device=self.device, dtype=torch.float32)
        text: Any = SimpleNamespace(tower=tower)
        super().__init__(Problem(tasks=TASKS, text=text))
        texts = torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(0))
        self.texts = texts.to(self.device)  # (K, D)

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        residuals = 0.1 * torch.randn(NUM_CLASSES, DIM, generator=generator)
        shift = 0.1 * torch.randn(DIM, generator=generator)
        return {
            "residuals": nn.Parameter(residuals.to(self.device)),
            "shift": nn.Parameter(shift.to(self.device), requires_grad=False),
        }

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        weights = self.texts + learnables["residuals"] + learnables["shift"][:, None]  # (R, K, D)
        return exp32(self.logit_scale) * F.normalize(images.float(), dim=-1) @ F.normalize(weights, dim=-1).mT

    def classifier(self, learnables: Mapping[str, Tensor]) -> LinearClassifier:
        weights = self.texts + learnables["residuals"] + learnables["shift"]
        return LinearClassifier.from_prompts(F.normalize(weights, dim=-1), self.logit_scale)


def rows_of(count: int, *shape: int) -> FewShotRows:
    """So many rows of all classes in turn, by default of three views."""
    features = torch.randn(count, *(shape or (3, DIM)), generator=torch.Generator().manual_seed(count)).half()
    return FewShotRows(features=features, labels=torch.arange(count) % NUM_CLASSES)


def new_state(
    recipe: Recipe,
    rows: FewShotRows,
    seed: int = 1,
    *,
    method: PromptMethod | None = None,
    folder: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainingState:
    """One run of a method, which its seed starts."""
    method = method or ResidualMethod()
    learnables = method.start(torch.Generator().manual_seed(seed))
    if folder:
        folder.mkdir(exist_ok=True)
    task_sizes = method.problem.task_sizes
    told = {"rate_factors": method.rate_factors, "mark_rows": method.mark_rows}
    where: dict[str, Any] = {"folder": folder, "on_epoch": on_epoch}
    return TrainingState(learnables, rows, recipe, seed=seed, task_sizes=task_sizes, **where, **told)


def learned(state: TrainingState) -> bytes:
    """All that a run learned."""
    return b"".join(value.detach().numpy().tobytes() for value in state.learnables.values())


class Killed(BaseException):
    """Ends a training from outside."""


def raise_at(last: int) -> Callable[[int, float], None]:
    """Make a callback that ends the training after an epoch."""

    def kill(epochs_done: int, _: float) -> None:
        if epochs_done == last:
            raise Killed

    return kill
