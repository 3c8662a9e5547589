"""``--shots all``: every training image of a class, from the rows to the report, beside runs of fewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_bench import RunBench, configure, least, results_of
from trees import draw_classes
from typer.testing import CliRunner, Result

import cptlite
from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.runs.estimate import estimate
from cptlite.runs.rows import count_steps

SIZES = {"coins": {"dime": 4, "penny": 8}, "leaves": {"ash": 8, "elm": 20}}
TRAIN = {"coins": [2, 4], "leaves": [4, 10]}  # half of each class
BY_SHOTS: dict[str, Any] = {"epochs": 100, "epochs_per_shot": 1.0, "lr_shots": 16.0, "batch_size": 0}


@pytest.fixture(scope="module")
def uneven(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of classes of several sizes."""
    folder = tmp_path_factory.mktemp("uneven")
    for name, sizes in SIZES.items():
        for word, images in sizes.items():
            draw_classes(folder / name, [word], images=images)
        (spec,) = load_catalog().resolve([str(folder / name)])
        encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig())
    return folder / "cache"


@pytest.fixture
def bench(backbone: Backbone, uneven: Path, tmp_path: Path) -> RunBench:
    return RunBench(backbone, uneven, tmp_path)


def logged(folder: Path) -> int:
    return len((folder / "log.jsonl").read_text().splitlines())


def counted(config: Any, uneven: Path, backbone: Backbone) -> tuple[int, float]:
    """Steps as they are counted and as they are estimated."""
    caches: list[FeatureCache] = open_caches(uneven, backbone)
    found = estimate([config], backbone, caches)
    assert found is not None
    try:
        return count_steps(caches, config), found.steps
    finally:
        for cache in caches:
            cache.close()


def test_all_images_are_learned_from_by_the_recipe_of_their_mean(bench: RunBench, uneven: Path) -> None:
    config = configure("coop-mt", datasets=tuple(SIZES), shots="all", short=BY_SHOTS)
    folder = bench.train("runs", config)
    assert folder.name == "shotsall-seed1"
    results = results_of(folder)
    assert results["shots"] == results["config"]["shots"] == "all"
    assert results["images_per_class"] == TRAIN
    assert logged(folder) == 5, "the mean of 2, 4, 4 and 10, a step an epoch"
    assert counted(config, uneven, bench.backbone) == (5, 5)
    rates = [json.loads(line)["lr"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert max(rates) == pytest.approx(0.002 * 5 / 16, rel=0.2)
    most = configure("coop-mt", datasets=("leaves",), suite="one", shots=10, short={"epochs": 1})
    found = results_of(bench.train("runs", most))
    assert (found["shots"], found["images_per_class"]) == (10, {"leaves": TRAIN["leaves"]})
    assert results_of(bench.train("runs", config)) == results, "it is done"


def test_each_task_alone_has_a_mean_of_its_own(bench: RunBench, uneven: Path) -> None:
    config = configure("coop-mt", datasets=tuple(SIZES), shots="all", short=BY_SHOTS, separate=True)
    told: list[float] = []
    folder = bench.train("runs", config, lambda done, _: told.append(done))
    assert [logged(folder / "tasks" / name) for name in SIZES] == [3, 7]
    assert told[-1] == (3 + 7) / 2
    assert counted(config, uneven, bench.backbone)[0] == 10
    alone = bench.train("alone", configure("coop-mt", datasets=("leaves",), shots="all", short=BY_SHOTS, suite="one"))
    assert (alone / "prompts.safetensors").read_bytes() == (folder / "tasks/leaves/prompts.safetensors").read_bytes()


def test_base_classes_alone_are_counted(bench: RunBench) -> None:
    folder = bench.train("runs", least("coop-ca", datasets=tuple(SIZES), shots="all", classes="base"))
    assert results_of(folder)["images_per_class"] == {"coins": [2, 0], "leaves": [4, 0]}


def test_runs_together_are_those_alone(bench: RunBench) -> None:
    both = [configure("coop-mt", datasets=tuple(SIZES), shots=shots, short=BY_SHOTS) for shots in (2, "all")]
    bench.train_together("together", both)
    for config in both:
        alone, beside = bench.train("alone", config), next(bench.folder.glob(f"together/**/{folder_of(config)}"))
        assert logged(beside) == logged(alone)
        assert results_of(beside)["tasks"] == results_of(alone)["tasks"]


def folder_of(config: Any) -> str:
    return f"shots{config.to_json()['shots']}-seed1"


@pytest.mark.slow
def test_the_commands_on_such_runs(uneven: Path, tmp_path: Path) -> None:
    def call(*words: str | Path) -> Result:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done

    out, cached = tmp_path / "runs", ("--cache-dir", uneven)
    words = ("train", "-m", "coop-ca,prototype", *cached, "--out", out, "--epochs", "1")
    done = call(*words, "--shots", "all,2", "--seed", "1,2")
    assert "shots all, 2; seed 1, 2 (4 runs)" in done.stderr and "fewer train rows than" not in done.stderr
    assert done.stdout.index("2 shots") < done.stdout.index("all shots")
    told = json.loads(call("report", out, "--method", "prototype", "--json").stdout)["results"]
    assert [(each["method"], each["shots"]) for each in told] == [("prototype", 2), ("prototype", "all")]
    heads = call("report", out, "--tasks", "--out", tmp_path / "drawn").stdout
    assert heads.index("2 shots") < heads.index("all shots") and "at all shots (%)" in heads
    assert (tmp_path / "drawn/shots.png").stat().st_size > 1000
    run = out / "coins+leaves/coop-ca-epochs1/random-demo/shotsall-seed1"
    assert "all shots" in call("eval", run, *cached).stdout
    call("predict", run, "-d", "leaves", *cached)
    call("export", run, "--out", tmp_path / "mine.safetensors")
    card = next(tmp_path.glob("mine*.md")).read_text()
    assert "all 2 to 10 training images a class" in card and "2147483647" not in card
    model = cptlite.load_run(run)
    assert model.options["shots"] == "all"
    assert not any("2147483647" in (run / name).read_text() for name in ("config.json", "results.json"))
