"""What a training will take, told before it begins."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from run_bench import RunBench, configure, results_of
from typer.testing import CliRunner

from cptlite.cache import FeatureCache
from cptlite.cli import app
from cptlite.runs.estimate import estimate

STEPS = {
    ("softcpt", ()): 3 * (14 // 2),  # 7 classes of 2 shots in batches of 2, 3 epochs
    ("softcpt", (("shots", 4),)): 3 * 14,
    ("softcpt", (("recipe", "full"), ("epochs", 600), ("batch_size", 0))): 150,
    ("coop-ca", (("separate", True),)): 3 * (2 * 2 / 3 + 3 * 3 / 3 + 2 * 2 / 3),
    ("softcpt", (("classes", "base"),)): 3 * ((1 + 2 + 1) * 2 // 2),
    ("coop-mt", (("held_out_tasks", ("leaves",)),)): 3 * (8 // 2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "given"), STEPS)
def test_steps_are_those_that_are_taken(
    bench: RunBench, opened: list[FeatureCache], method: str, given: tuple[tuple[str, Any], ...]
) -> None:
    config = configure(method, **dict(given))
    found = estimate([config], bench.backbone, opened)
    assert found is not None and found.step_seconds > 0
    assert found.steps == pytest.approx(STEPS[method, given])
    assert found.full_steps > 0
    if not config.separate:
        folder = bench.train("runs", config)
        assert len((folder / "log.jsonl").read_text().splitlines()) == found.steps
        assert results_of(folder)["seconds"]["train"] > 0


@pytest.mark.parametrize("method", ["cocoop", "plot", "prograd", "taskres"])
def test_every_kind_of_step_can_be_timed(bench: RunBench, opened: list[FeatureCache], method: str) -> None:
    found = estimate([configure(method)], bench.backbone, opened)
    assert found is not None and found.step_seconds > 0
    assert (found.full_steps > 0) == (method in ("plot", "prograd"))


def test_what_is_fitted_at_once_takes_no_steps(bench: RunBench, opened: list[FeatureCache]) -> None:
    assert estimate([configure("linear-probe")], bench.backbone, opened) is None


@pytest.mark.slow
def test_train_says_it_and_names_the_faster_recipe(bench: RunBench, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"train --method coop-mt --shots 2 --epochs 2 --batch-size 2 --cache-dir {bench.caches} --out"
    done = CliRunner().invoke(app, [*words.split(), str(bench.folder / "one")])
    assert done.exit_code == 0, done.output
    assert "14 steps of " in done.stderr and "--recipe full" not in done.stderr
    monkeypatch.setattr(sys.modules["cptlite.cli.train"], "WORTH_TELLING", 0.0)
    words = words.replace("--epochs 2 --batch-size 2", "--epochs 310 --batch-size 0")
    done = CliRunner().invoke(app, [*words.split(), str(bench.folder / "two")])
    assert "310 steps of " in done.stderr and "; --recipe full: about " in done.stderr


@pytest.mark.parametrize(
    ("native", "precision", "said"), [(True, [], True), (False, [], False), (True, ["float32"], False)]
)
def test_train_names_bf16_where_it_is_faster(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, native: bool, precision: list[str], said: bool
) -> None:
    monkeypatch.setattr(sys.modules["cptlite.cli.train"], "WORTH_TELLING", 0.0)
    monkeypatch.setattr("cptlite.backbones.backbone.WIDE", 1)
    monkeypatch.setattr("cptlite.backbones.backbone.multiplies_bf16", lambda: native)
    words = f"train --method coop-mt --shots 2 --epochs 1 --cache-dir {bench.caches} --out {bench.folder / 'one'}"
    done = CliRunner().invoke(app, [*words.split(), *(f"--precision={each}" for each in precision)])
    assert done.exit_code == 0, done.output
    assert ("; --precision bf16 is faster on this processor\n" in done.stderr) == said


def test_a_narrow_tower_is_not_faster_in_bf16(bench: RunBench) -> None:
    assert not bench.backbone.text_tower.faster_in_bf16
