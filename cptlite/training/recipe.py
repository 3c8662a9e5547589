"""How learnables are stepped: batches, optimiser, schedule.

The paper's recipe is SoftCPT's (Ding et al., 2024), which is CoOp's (Zhou et al., IJCV 2022): SGD with momentum, a
cosine over epochs after one constant warm-up epoch, batches over the joint training set of all tasks, the last step
kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cptlite.errors import UsageError
from cptlite.options import Options, option

__all__ = ["PAPER", "RECIPES", "Recipe"]

SMALL_BATCH = 32  # the paper's

PAPER = "paper"
RECIPES: dict[str, dict[str, Any]] = {
    PAPER: {},
    "fast": {"batch_size": 256, "least_steps": 12, "optimizer": "adamw", "lr": 0.001},  # by scripts/choose_recipe.py
}
"""Fields of `Recipe` that a recipe sets where the user does not; the paper's are the defaults."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """How the learnables are stepped; momentum is AdamW's first beta too."""

    recipe: str = option(PAPER, "paper, or fast: fewer and larger steps.", choices=(PAPER, "fast"))
    epochs: int = option(50, "Passes over the joint training set.", least=1)
    batch_size: int = option(32, "Images per step.", least=1)
    optimizer: str = option("sgd", "Takes the steps.", choices=("sgd", "adamw"))
    lr: float = option(0.002, "Learning rate at its height.", above=0)
    momentum: float = option(0.9, "Of SGD; AdamW's first beta.", least=0)
    weight_decay: float = option(5e-4, "Of the optimizer.", least=0)
    warmup_epochs: int = option(1, "Epochs at the warm-up rate before the cosine.", least=0)
    warmup_lr: float = option(1e-5, "Learning rate of the warm-up.", least=0)
    least_steps: int = option(1, "Steps of an epoch; few rows make smaller batches, down to 32.", least=1)
    class_fraction: float = option(
        1.0, "Probability with which a class that is not in a batch counts in its loss.", least=0, most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer == "adamw" and self.momentum >= 1:
            raise UsageError(f"momentum must be below 1 with adamw, whose first beta it is, got {self.momentum}")

    def batch_of(self, count: int) -> int:
        """Rows of a batch where there are ``count``."""
        return min(self.batch_size, max(SMALL_BATCH, count // self.least_steps), count)

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0: constant warm-up, then a cosine that would reach 0 at the end."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr
        return self.lr / 2 * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs))
