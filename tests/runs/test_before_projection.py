"""Runs on features before the projection: from caches, from images, and where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_bench import DATASETS, RunBench, least, results_of
from typer.testing import CliRunner

import cptlite
from cptlite.cache import FeatureCache
from cptlite.cache.layers import before_projection
from cptlite.cli import app
from cptlite.errors import DataError, UsageError
from cptlite.runs.execute import learn_in_memory


def test_images_are_read_as_the_cache_was(bench: RunBench, opened: list[FeatureCache], caches: Path) -> None:
    """Scores of image files are those of their cached rows; features behind the projection are refused."""
    run = cptlite.load_run(bench.train("runs", least("prolip")))
    cache = next(each for each in opened if each.fingerprint.dataset == "leaves")
    rows = before_projection([cache])[0].features("test")[:4, 0]
    images = [caches.parent / "leaves" / path for path in cache.paths("test")[:4]]
    run.backbone = bench.backbone
    found, wanted = run.scores([str(path) for path in images]), run.scores(rows)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), rtol=1e-3, atol=1e-2)
    width = rows.shape[1]
    with pytest.raises(UsageError, match=rf"wanted features of shape \(images, {width}\)"):
        run.scores(cache.features("test")[:, 0])


def test_a_run_is_evaluated_and_predicted_from_the_cache(bench: RunBench) -> None:
    folder = bench.train("runs", least("prolip"))
    place = ["--cache-dir", str(bench.caches)]
    done = CliRunner().invoke(app, ["eval", str(folder), *place])
    assert done.exit_code == 0, done.output
    words = ["predict", str(folder), "--dataset", "leaves", "--task", "leaves", "--csv", "-"]
    done = CliRunner().invoke(app, [*words, *place])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("image,task,rank")
    assert results_of(folder)["parameters"] == len(DATASETS) * 128 * bench.backbone.pre_projection_dim


def test_a_cache_without_them_says_what_to_do(bench: RunBench, opened: list[FeatureCache]) -> None:
    for cache in opened:
        object.__setattr__(cache.fingerprint, "pre_projection", 0)
    with pytest.raises(DataError, match="wanted features before the projection in .*--pre-projection --force"):
        learn_in_memory(least("prolip"), bench.backbone, opened)
