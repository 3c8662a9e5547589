"""A prompt method with the learnables of one run: tests of methods say nothing of the axis of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cptlite.classifiers import Classifier
from cptlite.methods.base import FewShotRows, PromptMethod
from cptlite.methods.batches import Batch
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

__all__ = ["Started"]


class Started:
    """One run of a method, started from a seed.

    Attributes
    ----------
    method : PromptMethod
    learnables : dict of str to nn.Parameter
        Without the axis R.
    """

    def __init__(self, method: PromptMethod, seed: int = 0) -> None:
        self.method = method
        self.learnables: dict[str, nn.Parameter] = method.start(torch.Generator().manual_seed(seed))

    def stacked(self) -> dict[str, Tensor]:
        """The learnables with the axis R in front, leaves of their own."""
        return {
            name: value.detach()[None].requires_grad_(value.requires_grad) for name, value in self.learnables.items()
        }

    def logits(self, images: Tensor) -> Tensor:
        """(B, D) to (B, K)."""
        return self.method.logits(self.stacked(), images[None])[0]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """From (B, D) and (B,)."""
        return self.method.loss(self.stacked(), Batch(images=images[None], labels=labels[None]))[0]

    def gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, and gradients by name."""
        loss, gradients = self.method.gradients(self.stacked(), Batch(images=images[None], labels=labels[None]))
        return loss[0], {name: value[0] for name, value in gradients.items()}

    def call(self, name: str) -> Tensor:
        """What a method of the learnables alone returns, such as ``class_weights``, without the axis R."""
        function: Callable[[dict[str, Tensor]], Tensor] = getattr(self.method, name)
        return function(self.stacked())[0]

    def classifier(self) -> Classifier:
        """The classifier as it stands."""
        return self.method.classifier(self.learnables)

    def num_parameters(self) -> int:
        """Numbers learned."""
        return sum(value.numel() for value in self.learnables.values() if value.requires_grad)

    def train(
        self, rows: FewShotRows, recipe: Recipe, *, seed: int = 1, folder: Path | None = None, **more: Any
    ) -> None:
        """Train in place, alone."""
        sizes = self.method.problem.task_sizes
        told = {"rate_factors": self.method.rate_factors, "mark_rows": self.method.mark_rows, **more}
        state = TrainingState(self.learnables, rows, recipe, seed=seed, task_sizes=sizes, folder=folder, **told)
        train(self.method, [state])
