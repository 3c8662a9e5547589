"""Frozen keyword-only configurations, checked once when they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from cptlite.errors import UsageError

__all__ = ["OWN_ROWS", "PAPER", "RECIPES", "TrainConfig", "ViewConfig", "differ_in_rows_alone"]

OWN_ROWS = ("shots", "seed")
"""Fields in which runs that train together may differ."""

MOST_CONTEXT = 75  # of CLIP's 77 positions; one starts a prompt, one ends it
MOST_RATE = 1e38  # of float32's 3.4e38
MOST_SEED = 2**63 - 1  # the largest that torch takes

OPTIMIZERS = ("sgd", "adamw")
PAPER = "paper"
RECIPES: dict[str, dict[str, Any]] = {
    PAPER: {},
    "fast": {"batch_size": 256, "least_steps": 12, "optimizer": "adamw", "lr": 0.001},  # by scripts/choose_recipe.py
}
"""Fields of `TrainConfig` that a recipe sets where the user does not; the paper's are the defaults."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Which views of a training image are cached.

    Attributes
    ----------
    views : int
        Views per training image, at least 1: the plain preprocess and ``views - 1`` random ones.
    seed : int
        Seed of the random views, at least 0.
    min_scale : float
        Smallest share of the image's area that a random crop keeps, in (0, 1].
    flip : bool
        Whether a random view is mirrored with probability one half.
    """

    views: int = 1
    seed: int = 0
    min_scale: float = 0.08
    flip: bool = True

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UsageError(f"views must be at least 1 (1 is the plain view), got {self.views}.")
        if not 0 <= self.seed <= MOST_SEED:
            raise UsageError(f"the seed of the views must be from 0 to {MOST_SEED}, got {self.seed}.")
        if not 0 < self.min_scale <= 1:
            raise UsageError(
                f"min_scale, the smallest share of the area a crop keeps, must lie in (0, 1], got {self.min_scale}."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run: what is learned, on what, and how.

    Attributes
    ----------
    method : str
        Name in the method table.
    variant : str
        Variant of the method; empty for methods without any.
    suite : str
        Folder name the results are filed under.
    datasets : tuple of str
        Cached datasets trained on jointly, in task order.
    separate : bool
        Whether a prompt method learns each task on its own instead: own rows, batches and schedule.
    backbone : str
    shots, seed : int
        Labelled training images per class, and the seed that draws them and everything else.
    recipe : str
        Name in `RECIPES`; the fields below say what came of it.
    epochs, batch_size : int
    optimizer : str
        ``sgd`` or ``adamw``.
    lr, momentum, weight_decay : float
        Of the optimiser; momentum is AdamW's first beta.
    warmup_epochs : int
        Epochs at ``warmup_lr`` before the cosine begins.
    warmup_lr : float
    least_steps : int
        Steps of an epoch: where rows are too few for them, batches are smaller, down to 32.
    class_fraction : float
        Probability with which a class that is not in a step's batch counts in its loss.
    context_length, task_context_length, class_context_length : int
        Context tokens L, M and Mc.
    position : str
        Where the class name stands: ``end``, ``middle`` or ``front``.
    context_init, task_context_init, class_context_init : str
        Words to start a context from; empty draws from N(0, 0.02^2).
    sub_network : str
        Input of SoftCPT's sub-network: ``lin``, ``linmean`` or ``lincls``.
    freeze_class_context : bool
        Whether SoftCPT's class-feature context stays as it starts.
    templates : tuple of str
        Zero-shot prompts with ``{}`` for the class name, instead of the dataset's; several make an ensemble.
    text_path : str
        ``fused`` or ``plain``.
    text_memory : float
        GiB that one text forward may keep for its backward, about; more is done in chunks.
    cuda_graphs : bool
        Whether a GPU replays recorded steps.
    device, precision : str
    """

    method: str
    variant: str = ""
    suite: str
    datasets: tuple[str, ...]
    backbone: str
    separate: bool = False
    shots: int = 16
    seed: int = 1
    recipe: str = PAPER
    epochs: int = 50
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    least_steps: int = 1
    class_fraction: float = 1.0
    context_length: int = 16
    task_context_length: int = 4
    class_context_length: int = 4
    position: str = "end"
    context_init: str = ""
    task_context_init: str = ""
    class_context_init: str = ""
    sub_network: str = "lin"
    freeze_class_context: bool = False
    templates: tuple[str, ...] = ()
    text_path: str = "fused"
    text_memory: float = 8.0
    cuda_graphs: bool = True
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UsageError(f"unknown recipe {self.recipe!r}: give one of {', '.join(RECIPES)}")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.optimizer!r}: give one of {', '.join(OPTIMIZERS)}")
        for name in ("shots", "epochs", "batch_size", "least_steps"):
            _check_range(name, getattr(self, name), 1)
        _check_range("warmup_epochs", self.warmup_epochs, 0)
        for name in ("momentum", "weight_decay", "warmup_lr"):
            _check_range(name, getattr(self, name), 0, MOST_RATE)
        if self.optimizer == "adamw" and self.momentum >= 1:
            raise UsageError(f"momentum must be below 1 with adamw, whose first beta it is, got {self.momentum}")
        _check_range("class_fraction", self.class_fraction, 0, 1)
        _check_range("seed", self.seed, 0, MOST_SEED)
        for name, least in (("context_length", 1), ("task_context_length", 0), ("class_context_length", 0)):
            _check_range(name, getattr(self, name), least, MOST_CONTEXT, "; the text encoder reads 77 tokens")
        if not 0 < self.text_memory <= MOST_RATE:
            raise UsageError(f"text-memory must be above 0 (GiB), got {self.text_memory}")
        if not 0 < self.lr <= MOST_RATE:
            raise UsageError(f"lr must be above 0 and at most {MOST_RATE}, got {self.lr}")
        if self.suite in ("", ".", "..") or "/" in self.suite or "\\" in self.suite:
            raise UsageError(f"suite must be a plain folder name below --out, got {self.suite!r}")

        for template in self.templates:
            if re.findall(r"\{[^}]*\}?|\}", template) != ["{}"]:
                raise UsageError(f"a template must have one {{}} for the class name, got {template!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be read back by `from_json`."""
        return {**asdict(self), "datasets": list(self.datasets), "templates": list(self.templates)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read back what `to_json` wrote; an unknown key is an error."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise UsageError(f"unknown configuration key {unknown[0]!r}: the known ones are {', '.join(sorted(known))}")
        texts = {name: tuple(values[name]) for name in ("datasets", "templates") if name in values}
        return cls(**{**values, **texts})


def differ_in_rows_alone(configs: Sequence[TrainConfig]) -> bool:
    """Whether configurations agree in all but shots and seed."""
    rests = [{name: value for name, value in config.to_json().items() if name not in OWN_ROWS} for config in configs]
    return all(rest == rests[0] for rest in rests)


def _check_range(name: str, value: float, least: float, most: float = math.inf, why: str = "") -> None:
    if not (least <= value <= most and value < math.inf):
        limit = f"from {least} to {most}" if most < math.inf else f"a number of at least {least}"
        raise UsageError(f"{name.replace('_', '-')} must be {limit}{why}, got {value}")
