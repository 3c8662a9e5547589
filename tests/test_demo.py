"""The demo from drawings to picture, with one quick method; and its runs together beside its runs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import open_caches
from cptlite.demo import DemoPlan, DemoReport, _plan_runs, run_demo
from cptlite.errors import UsageError
from cptlite.methods.base import Problem
from cptlite.methods.prompts.softcpt import SoftCPT, SoftCPTOptions
from cptlite.methods.table import METHODS
from cptlite.runs.rows import draw_few_shots
from cptlite.text.encoder import TextEncoder
from cptlite.training.loop import TOLERANCE, train
from cptlite.training.recipe import RECIPES, Recipe
from cptlite.training.state import TrainingState

PLAN = DemoPlan(methods=("prototype",), shots=(1, 16), seeds=(1, 2), jobs=1, paper_too=())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoReport, Counter[str], Path]:
    """Its report, how often each stage was told, and its folder."""
    stages: Counter[str] = Counter()
    out = tmp_path_factory.mktemp("demo")
    return run_demo(out, PLAN, on_progress=lambda far: stages.update([far.stage])), stages, out


@pytest.mark.slow
def test_demo_runs_and_goes_on_where_it_stopped(done: tuple[DemoReport, Counter[str], Path]) -> None:
    report, stages, out = done
    assert len(report.results) == 5  # two shots, two seeds, and zero-shot once
    assert {len(result["tasks"]) for result in report.results} == {6}
    assert report.plot.read_bytes().startswith(b"\x89PNG")
    assert stages["train"] >= 2
    scores = {(result["method"], result["shots"]): result["suite_score"] for result in report.results}
    assert 0.2 < scores["zeroshot", 1] < 0.9
    assert scores["prototype", 16] > scores["prototype", 1]
    before = {path: path.stat().st_mtime_ns for path in report.runs.rglob("results.json")}
    again = run_demo(out, PLAN)
    assert again.results == report.results
    assert before == {path: path.stat().st_mtime_ns for path in report.runs.rglob("results.json")}


def test_what_is_refused_costs_no_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'slow'"):
        run_demo(tmp_path / "demo", DemoPlan(recipe="slow"))
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backbone]:
    """Compute everything in float64, where the package says float32 too: the demo's CLIP."""
    from clip.model import LayerNorm

    backbone = load_backbone("demo", device="cpu", linear_backend="torch")
    backbone.model.double()
    monkeypatch.setattr(LayerNorm, "forward", nn.LayerNorm.forward)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setitem(TOLERANCE, torch.float64, 0.0)  # of steps recorded on a GPU; here none are
    torch.set_default_dtype(torch.float64)
    yield backbone
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_runs_together_are_the_runs_alone(done: tuple[DemoReport, Counter[str], Path], in_float64: Backbone) -> None:
    # The paper's recipe amplifies rounding: in float32 a run on another number of threads ends elsewhere, too.
    caches = open_caches(done[0].caches, in_float64)
    tasks = tuple(task for cache in caches for task in cache.tasks)
    problem = Problem(tasks=tasks, text=TextEncoder(in_float64.text_tower, in_float64.tokenizer))

    task_sizes = problem.task_sizes

    def new_state(seed: int) -> TrainingState:
        learnables = SoftCPT(problem, SoftCPTOptions()).start(torch.Generator().manual_seed(seed))
        rows, _ = draw_few_shots(caches, shots=1, seed=seed, device=in_float64.device)
        return TrainingState(learnables, rows, Recipe(), seed=seed, task_sizes=task_sizes)

    seeds = (1, 2, 3)
    together = [new_state(seed) for seed in seeds]
    train(SoftCPT(problem, SoftCPTOptions(), runs=len(seeds)), together)
    for state, seed in zip(together, seeds, strict=True):
        alone = new_state(seed)
        train(SoftCPT(problem, SoftCPTOptions()), [alone])
        for name, value in alone.learnables.items():
            assert value.dtype == torch.float64
            assert (state.learnables[name] - value).abs().max() <= 1e-4 * value.abs().max()
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_method_is_planned_by_every_recipe(recipe: str) -> None:
    """What the command gives to all methods is taken by those that have it."""
    methods = tuple(name for name, entry in METHODS.items() if entry.needs_rows and not entry.wants)
    configs = _plan_runs(DemoPlan(methods=methods, recipe=recipe))
    by_paper = 0 if recipe == "paper" else 9
    assert len(set(configs)) == len(configs) == 9 * len(methods) + by_paper + 1 and configs[-1].method == "zeroshot"
    by_recipe = {config.method for config in configs if config.recipe_name == recipe}
    assert by_recipe >= {"softcpt", "coop-ca"}
    assert (by_recipe == {config.method for config in configs}) is (recipe == "paper")
