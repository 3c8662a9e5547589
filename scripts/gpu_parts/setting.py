"""Where a part runs and at which sizes, and one short training of any method.

Axes: N rows, M patches of an image, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cptlite.backbones import Backbone, load_backbone
from cptlite.environment import find_device
from cptlite.methods.base import FewShotRows, PromptMethod
from cptlite.methods.table import METHODS, find_method
from cptlite.timing.bench import BenchPlan, run_bench
from cptlite.timing.sizes import SUITES, suite_names
from cptlite.timing.tasks import make_problem, make_rows
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

__all__ = ["CASES", "Part", "Row", "Setting", "begin", "label", "learn"]

Row = dict[str, Any]

CLASSES = {"animals": ("cat", "dog", "red panda"), "fruit": ("fig", "kiwi")}
SHOTS = 16
PATCHES = 9  # made up, of an image, for methods that read them

CASES: list[tuple[str, Mapping[str, Any]]] = [
    (name, {"variant": variant} if variant else {})
    for name, entry in METHODS.items()
    if entry.stepped
    for variant in entry.variants or ("",)
]
"""Every method that takes steps, in every variant: its name and options."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how large.

    Attributes
    ----------
    device : str
        As `find_device` takes it.
    small : bool
        At sizes that a processor does in seconds: to see that a part runs, not what it shows.
    tell : callable
        Told in a few words what is being done.
    """

    device: str = "auto"
    small: bool = False
    tell: Callable[[str], None] = lambda _: None

    @property
    def place(self) -> torch.device:
        """The device itself."""
        return find_device(self.device)

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites at whose sizes something is measured, the smallest last."""
        return ("fashion20",) if self.small else ("general10", "plant6", "fashion20")

    @property
    def classes(self) -> dict[str, list[str]] | None:
        """Two names a task where all is small, else those that bench makes up."""
        if not self.small:
            return None
        return {task: ["fig", "red panda"] for sizes in SUITES.values() for task in sizes}

    def backbone(self, name: str = "ViT-B/32", **given: Any) -> Backbone:
        """Make a CLIP of random weights."""
        given = {"device": self.device, "linear_backend": "torch", **given}
        return load_backbone("random:demo" if self.small else f"random:{name}", **given)

    def names(self, suite: str, backbone: Backbone) -> dict[str, list[str]]:
        """Class names of a suite by task."""
        return suite_names(suite, backbone.tokenizer, self.classes)

    def bench(self, stage: str, suites: Sequence[str] = (), *, backbone: str = "ViT-B/32", **given: Any) -> list[Row]:
        """Figures of one of bench's stages, as ``cptlite bench`` gives them."""
        if self.small:
            backbone, given = "demo", {**given, "repeats": 1, "seconds": 1.0, "shots": 2}
        plan = BenchPlan(
            stages=(stage,),
            suites=tuple(suites) or self.suites[-1:],
            classes=self.classes,
            backbone=f"random:{backbone}",
            device=self.device,
            **given,
        )
        found = run_bench(plan, self.tell)
        facts = {key: found[key] for key in ("backbone", "precision", "matmul_gflops")}
        return [{**facts, **row} for row in found[stage]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a GPU is to show.

    Attributes
    ----------
    shows : str
        In a few words.
    minutes : float
        It takes at most, on one H100; it is ended after them.
    run : callable
        Gives its rows.
    """

    shows: str
    minutes: float
    run: Callable[[Setting], Iterable[Row]]


def label(name: str, options: Mapping[str, Any]) -> str:
    """Name of a method with its variant."""
    return "-".join([name, *options.values()])


def begin(
    backbone: Backbone, name: str, options: Mapping[str, Any], recipe: Recipe, runs: int = 1
) -> tuple[PromptMethod, list[TrainingState]]:
    """Begin runs of a method on a few classes: all of one task for a method that learns tasks one by one."""
    entry = find_method(name)
    names: Mapping[str, Sequence[str]] = CLASSES
    if entry.separate:
        names = {"things": [each for of_task in CLASSES.values() for each in of_task]}
    method = entry.method(make_problem(backbone, names), entry.new_options(**options), runs)
    states = []
    for seed in range(1, runs + 1):
        rows = make_rows(backbone, len(method.problem.class_names), SHOTS, seed=seed)
        if entry.needs_patches:
            patches = rows.features[:, :, None].repeat(1, 1, PATCHES, 1)  # (N, 1, M, D)
            noise = torch.randn(patches.shape, generator=torch.Generator().manual_seed(seed))
            rows = FewShotRows(features=patches + noise.to(patches), labels=rows.labels)
        start = method.start(torch.Generator().manual_seed(seed))
        states.append(TrainingState(start, rows, recipe, seed=seed, task_sizes=method.problem.task_sizes))
    return method, states


def learn(
    backbone: Backbone,
    name: str,
    options: Mapping[str, Any],
    recipe: Recipe,
    *,
    runs: int = 1,
    cuda_graphs: bool = True,
) -> list[TrainingState]:
    """Train what `begin` begins."""
    method, states = begin(backbone, name, options, recipe, runs)
    train(method, states, cuda_graphs=cuda_graphs)
    return states
