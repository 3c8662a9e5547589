"""How learnables are stepped: batches, optimiser, schedule.

The paper's recipe is SoftCPT's (Ding et al., 2024), which is CoOp's (Zhou et al., IJCV 2022): SGD with momentum, a
cosine over epochs after one constant warm-up epoch, batches over the joint training set of all tasks, the last step
kept.

The released recipe is what the authors' trainer does with that configuration: it registers one optimiser and one
scheduler under several names and steps each name's, so that a batch takes several steps along one gradient and the
schedule moves as many epochs at a time.

The full recipe is what only a cache can do: every step sees all rows, which costs what a small batch does. As many
steps are taken, and as long ones, as the images of a class can bear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from cptlite.errors import UsageError
from cptlite.options import Options, option

__all__ = ["FULL", "PAPER", "RECIPES", "RELEASED", "Recipe"]

PAPER, RELEASED, FULL = "paper", "released", "full"
RECIPES: dict[str, dict[str, Any]] = {
    PAPER: {},
    RELEASED: {},  # a method's options say its steps_per_batch
    FULL: {  # by scripts/choose_recipe.py
        "epochs": 600,
        "epochs_per_shot": 75.0,
        "batch_size": 0,
        "optimizer": "adamw",
        "lr": 0.003,
        "lr_shots": 16.0,
        "warmup_epochs": 5,
        "warmup_lr": 0.0003,
    },
}
"""Fields of `Recipe` that a recipe sets where the user does not; the paper's are the defaults."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """How the learnables are stepped; momentum is Adam's first beta too."""

    recipe: str = option(
        PAPER,
        "paper: as stated; released: as the authors' code steps; full: all rows in every step.",
        choices=("paper", "released", "full"),
    )
    epochs: int = option(50, "Passes over the joint training set.", least=1)
    epochs_per_shot: float = option(0.0, "Epochs a shot, up to the number of epochs; 0 for that number.", least=0)
    batch_size: int = option(32, "Images per step; 0 for all.", least=0)
    optimizer: str = option(
        "sgd", "Takes the steps; to adam weight decay is a part of the gradient.", choices=("sgd", "adamw", "adam")
    )
    lr: float = option(0.002, "Learning rate at its height.", above=0)
    lr_shots: float = option(0.0, "Shots for that rate; fewer take their share of it; 0 for any number.", least=0)
    momentum: float = option(0.9, "Of SGD; Adam's first beta.", least=0)
    adam_eps: float = option(1e-8, "Added by adamw and adam to what they divide by.", above=0)
    weight_decay: float = option(5e-4, "Of the optimizer.", least=0)
    warmup_epochs: int = option(1, "Epochs at the warm-up rate before the cosine.", least=0)
    warmup_lr: float = option(1e-5, "Learning rate of the warm-up.", least=0)
    steps_per_batch: int = option(
        1, "Steps along a batch's gradient; the schedule moves as many epochs at a time.", least=1
    )
    class_fraction: float = option(
        1.0, "Share of each task's classes not in a batch that are encoded and scored, rounded up.", above=0, most=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "sgd" and self.momentum >= 1:
            raise UsageError(
                f"momentum must be below 1 with {self.optimizer}, whose first beta it is, got {self.momentum}"
            )

    def batch_of(self, count: int) -> int:
        """Rows of a batch where there are ``count``."""
        return min(self.batch_size or count, count)

    def steps_on(self, count: int) -> int:
        """Batches of a training on so many rows: the last partial one of an epoch is dropped if there is a full one."""
        return self.epochs * (count // self.batch_of(count)) if count else 0

    def at(self, shots: float) -> Recipe:
        """Return the recipe of a training on so many images a class, with its epochs and its rates."""
        epochs, share = self.epochs, 1.0
        if self.epochs_per_shot:
            epochs = max(1, min(self.epochs, round(self.epochs_per_shot * shots)))
        if self.lr_shots:
            share = min(1.0, shots / self.lr_shots)
        lr, warmup_lr = self.lr * share, self.warmup_lr * share
        return replace(self, epochs=epochs, epochs_per_shot=0.0, lr=lr, lr_shots=0.0, warmup_lr=warmup_lr)

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0: constant warm-up, then a cosine that would reach 0 at the end.

        With several steps a batch the cosine goes on past its end and up again, as the released code's does.
        """
        position = self.steps_per_batch * epoch
        if position < self.warmup_epochs:
            return self.warmup_lr
        return self.lr / 2 * (1 + math.cos(math.pi * (position - self.warmup_epochs) / self.epochs))
