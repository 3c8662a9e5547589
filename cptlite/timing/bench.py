"""All that ``cptlite bench`` times, in one process: stages in, one JSON-able account out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cptlite.backbones import Backbone, load_backbone
from cptlite.environment import describe_environment
from cptlite.errors import UsageError
from cptlite.timing.cache import bench_cache
from cptlite.timing.clock import MatmulClock, Patience
from cptlite.timing.probe import bench_probe
from cptlite.timing.sizes import suite_names
from cptlite.timing.text import bench_text
from cptlite.timing.train import TrainSizes, bench_train
from cptlite.training.recipe import FULL, PAPER

__all__ = ["STAGES", "BenchPlan", "run_bench"]

STAGES = ("text", "train", "cache", "probe")
MATMUL_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What is timed, on what, and for how long.

    Attributes
    ----------
    stages : tuple of str
        Of `STAGES`; none means all.
    suites : tuple of str
        Sizes to time text, training and probes at.
    classes : mapping of str to sequence of str, optional
        Real class names by task, for the suites whose tasks are all among them; the others get made-up ones.
    backbone, device, precision, linear_backend : str
        As `load_backbone` takes them.
    repeats : int
        Timed repeats of each figure, at most.
    seconds : float
        No further repeat of a figure is begun after so many seconds.
    shots : int
        Training rows per class.
    runs : int
        How many runs train together.
    epochs : int
        Time whole trainings of so many epochs; 0 times steps, but of the full recipe a whole training.
    recipe : str
        Of the training: ``paper`` or ``full``.
    images : int
        JPEG files of the caching pass.
    class_fraction : float
        Of class subsampling, in the text stage; 1 leaves that way out.
    """

    stages: tuple[str, ...] = ()
    suites: tuple[str, ...] = ("plant6",)
    classes: Mapping[str, Sequence[str]] | None = None
    backbone: str = "random:ViT-B/32"
    device: str = "auto"
    precision: str = "auto"
    linear_backend: str = "auto"
    repeats: int = 5
    seconds: float = 15.0
    shots: int = 16
    runs: int = 3
    epochs: int = 0
    recipe: str = PAPER
    images: int = 128
    class_fraction: float = 1.0

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown:
            raise UsageError(f"cannot time {', '.join(unknown)}: give {', '.join(STAGES)}, or nothing for all")
        for name in ("repeats", "seconds", "shots", "runs", "images"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.class_fraction <= 1:
            raise UsageError(f"class-fraction must be above 0 and at most 1, got {self.class_fraction}")
        if self.epochs < 0:
            raise UsageError(f"epochs must be 0 (time steps) or more (time whole trainings), got {self.epochs}")
        if self.recipe not in (PAPER, FULL):
            raise UsageError(f"cannot time recipe {self.recipe!r}: give {PAPER} or {FULL}")


def run_bench(plan: BenchPlan, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Time what the plan says.

    Parameters
    ----------
    plan : BenchPlan
    tell : callable, optional
        Told in a few words what is being timed.

    Returns
    -------
    dict
        ``machine``, ``backbone``, ``precision``, ``date``, ``matmul_gflops``, and a list of figures for each of
        `STAGES`, empty where it was not asked for. Seconds end in ``_s``.
    """
    tell = tell or (lambda words: None)
    tell(f"loading {plan.backbone}")
    how = {"device": plan.device, "precision": plan.precision}
    backbone = load_backbone(plan.backbone, linear_backend=plan.linear_backend, **how)
    if backbone.lacks_text or not backbone.text_tower.packs:
        raise UsageError(
            f"wanted a backbone whose prompts go through both text paths, which bench compares, got "
            f"{plan.backbone!r}: give one of OpenAI's form"
        )
    usual = load_backbone(plan.backbone, linear_backend="torch", **how)  # what the originals' users run
    suites = {suite: suite_names(suite, backbone.tokenizer, plan.classes) for suite in plan.suites}
    patience = Patience(repeats=plan.repeats, seconds=plan.seconds)
    sizes = TrainSizes(shots=plan.shots, runs=plan.runs, epochs=plan.epochs, recipe=plan.recipe)
    clock = _matmul_clock(backbone)
    stages: dict[str, Callable[[Callable[[str], None]], Any]] = {
        "text": lambda tell: bench_text(backbone, usual, suites, clock, patience, tell, plan.class_fraction),
        "train": lambda tell: bench_train(backbone, usual, suites, sizes, patience, tell),
        "cache": lambda tell: bench_cache(backbone, plan.images, patience, tell),
        "probe": lambda tell: bench_probe(backbone, suites, plan.shots, patience, tell),
    }
    figures: dict[str, list[dict[str, Any]]] = {stage: [] for stage in STAGES}
    for stage in plan.stages or STAGES:
        figures[stage] = list(stages[stage](lambda words, stage=stage: tell(f"{stage}: {words}")))  # type: ignore[misc]
    clock.tick()
    return {
        "machine": describe_environment(backbone.device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone": backbone.name,
        "precision": backbone.precision,
        "linear_backend": backbone.linear_backend,
        "class_names": "given" if plan.classes is not None else "made up",
        "matmul_gflops": clock.rate / 1e9,
        **figures,
    }


def _matmul_clock(backbone: Backbone) -> MatmulClock:
    tower = backbone.text_tower
    return MatmulClock(rows=MATMUL_ROWS, width=tower.width, dtype=tower.dtype, device=tower.device)
