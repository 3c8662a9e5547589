"""The main job on the embedded suite: draw, cache, train every method, evaluate, compare.

Needs no network and no data: six related small tasks, five of them drawn by code and one of scikit-learn's handwritten
digits, and a small CLIP that ships with the package.

Worker processes load PyTorch while the images are drawn, which is done without it; this process loads it after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlite.config import RunConfig
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.drawings import draw_suite
from cptlite.errors import DataError
from cptlite.methods.table import find_method
from cptlite.process import loading
from cptlite.reporting import draw_shots_plot
from cptlite.runs.workers import starting_workers
from cptlite.training.recipe import FULL, PAPER, RECIPES, Recipe

if TYPE_CHECKING:
    from cptlite.runs.progress import Progress

__all__ = ["DemoPlan", "DemoProgress", "DemoReport", "run_demo"]

SUITE = "demo"


@dataclass(frozen=True, kw_only=True)
class DemoProgress:
    """How far the demo is.

    Attributes
    ----------
    stage : str
        ``draw``, ``cache`` or ``train``.
    done, total : int
        Images, or training steps.
    said : str
        How many runs are filed, while these train.
    """

    stage: str
    done: int
    total: int
    said: str = ""


OnProgress = Callable[[DemoProgress], None]
Tell = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What the demo trains.

    Attributes
    ----------
    methods : tuple of str
    shots, seeds : tuple of int
    recipe : str
        Of the methods that have one.
    paper_too : tuple of str
        Methods that are trained by the paper's recipe as well.
    jobs : int
        Training processes at a time.
    together : bool
        Whether runs of a method train as an axis of one forward.
    """

    methods: tuple[str, ...] = ("linear-probe", "coop-mt", "coop-ca", "softcpt")  # longest last, as for `grid`
    shots: tuple[int, ...] = (1, 4, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    recipe: str = FULL
    paper_too: tuple[str, ...] = ("softcpt",)
    jobs: int = 2
    together: bool = True


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Where everything lies, and what came out.

    Attributes
    ----------
    results : list of dict
        Of every run, as in its ``results.json``.
    data, caches, runs, plot : Path
    example : Path
        Folder of a run: the last method's, at the most shots.
    seconds : dict of str to float
        By stage.
    """

    results: list[dict[str, Any]]
    data: Path
    caches: Path
    runs: Path
    plot: Path
    example: Path
    seconds: dict[str, float]


def run_demo(out: Path, plan: DemoPlan | None = None, *, on_progress: OnProgress | None = None) -> DemoReport:
    """Draw, cache, train, evaluate and plot; what is already done in ``out`` is not done again.

    Parameters
    ----------
    out : Path
        Folder for the drawings, the caches, the runs and the picture.
    plan : DemoPlan, optional
    on_progress : callable, optional
        Told how far it is.

    Returns
    -------
    DemoReport
    """
    plan = plan or DemoPlan()
    Recipe(recipe=plan.recipe)  # first, so that what is refused costs no time
    data, caches, runs = out / "data", out / "cache", out / "runs"
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def tell(stage: str, done: int, total: int, said: str = "") -> None:
        if on_progress:
            on_progress(DemoProgress(stage=stage, done=done, total=total, said=said))

    def stage_ends(stage: str) -> None:
        seconds[stage] = time.monotonic() - started - sum(seconds.values())

    with starting_workers(plan.jobs):
        draw_suite(data, on_progress=lambda done, total: tell("draw", done, total))
        stage_ends("draw")
        with loading():
            from cptlite.runs.folders import run_folder

            configs = _plan_runs(plan)
        _cache_suite(data, caches, tell)
        stage_ends("cache")
        results = _train_all(plan, configs, caches, runs, tell)
        stage_ends("train")
    plot = draw_shots_plot(results, out / "accuracy.png", title="The embedded demo: six tasks, small CLIP")
    ranks = {
        config: ((config.method,) == plan.methods[-1:], config.recipe_name == plan.recipe, config.shots)
        for config in configs
    }
    example = run_folder(runs, max(configs, key=ranks.__getitem__))
    places = {"data": data, "caches": caches, "runs": runs, "plot": plot, "example": example}
    return DemoReport(results=results, **places, seconds=seconds)


def _cache_suite(data: Path, caches: Path, tell: Tell) -> None:
    """Encode every dataset of the suite, with what any method needs."""
    from cptlite.backbones import load_backbone
    from cptlite.cache import cache_path
    from cptlite.cache.encode import encode_dataset

    kinds: dict[str, Any] = {"views": ViewConfig(), "patches": True, "pre_projection": True}
    backbone = load_backbone("demo", device="cpu")
    specs = load_catalog().resolve([SUITE])
    datasets = [read_dataset(spec, data) for spec in specs]
    sizes = [sum(len(rows) for rows in dataset.splits.values()) for dataset in datasets]
    for index, dataset in enumerate(datasets):

        def count(done: int, total: int, split: str, before: int = sum(sizes[:index])) -> None:
            tell("cache", before + done, sum(sizes))

        anew = _is_of_earlier_version(cache_path(caches, backbone.slug, dataset.name))
        encode_dataset(dataset, backbone, caches, **kinds, force=anew, on_progress=count)


def _is_of_earlier_version(path: Path) -> bool:
    """Whether a cache file is there that lacks what no version before this one stored; its other features are the same.

    One that cannot be read is not: the encoder says what is wrong with it.
    """
    from cptlite.cache import open_cache

    try:
        with open_cache(path) as cache:
            return cache.fingerprint.pre_projection == 0
    except DataError:
        return False


def _plan_runs(plan: DemoPlan) -> list[RunConfig]:
    """Every run; zero-shot once, since neither shots nor seed reach it."""
    from cptlite.runs.sweep import grid

    names = tuple(spec.name for spec in load_catalog().resolve([SUITE]))
    given = {"suite": SUITE, "datasets": names, "backbone": "demo", "device": "cpu"}
    rows = {"shots": plan.shots, "seeds": plan.seeds}
    stepped = any(find_method(method).stepped for method in plan.methods)
    recipe = {"recipe": plan.recipe} if stepped or plan.recipe not in RECIPES else {}
    configs = grid({**given, **recipe}, methods=("zeroshot", *plan.methods), **rows)
    once = (plan.shots[0], plan.seeds[0])
    zero_shot = [config for config in configs if config.method == "zeroshot" and (config.shots, config.seed) == once]
    beside = grid({**given, "recipe": PAPER}, methods=plan.paper_too if plan.recipe != PAPER else (), **rows)
    return [*beside, *(config for config in configs if config.method != "zeroshot"), *zero_shot]


def _train_all(
    plan: DemoPlan, configs: Sequence[RunConfig], caches: Path, runs: Path, tell: Tell
) -> list[dict[str, Any]]:
    from cptlite.runs.sweep import run_all

    def count(far: Progress) -> None:
        tell("train", far.steps_done, far.steps, f"{far.runs_done} of {far.runs} runs")

    return run_all(configs, cache_dir=caches, out=runs, jobs=plan.jobs, together=plan.together, on_progress=count)
