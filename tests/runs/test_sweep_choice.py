"""Options are chosen on validation rows: whatever stands in the test rows, the same are chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from run_bench import configure, encode_datasets
from typer.testing import CliRunner

from cptlite.backbones import load_backbone
from cptlite.cli import app
from cptlite.runs.sweep_choice import Candidate, choose_options

SCORES = {(0.1, 1): 0.5, (0.1, 2): 0.7, (0.2, 1): 0.9, (0.2, 2): 0.4, (0.3, 1): 1.0}


def choose(test: float) -> list[Candidate]:
    """Three learning rates over two seeds, the last of which lacks a run; test scores rise or fall with the rate."""
    runs: list[tuple[Any, dict[str, Any] | None]] = []
    for lr in (0.1, 0.2, 0.3):
        for seed in (1, 2):
            found = {"suite_score": 0.5 + test * lr} if (lr, seed) in SCORES else None
            runs.append((configure("coop-mt", lr=lr, seed=seed), found))
    return choose_options(runs, lambda config: SCORES[config.recipe.lr, config.seed])  # type: ignore[union-attr]


@pytest.mark.parametrize("test", [1.0, -1.0])
def test_the_highest_validation_mean_is_chosen(test: float) -> None:
    candidates = choose(test)
    told = [(each.config.recipe.lr, each.seeds, each.chosen) for each in candidates if each.config.recipe]
    assert told == [(0.1, 2, False), (0.2, 2, True), (0.3, 1, False)]
    assert candidates[1].validation == pytest.approx(0.65) and candidates[1].test == pytest.approx(0.5 + 0.2 * test)


def test_without_rivals_nothing_is_chosen() -> None:
    assert choose_options([(configure("coop-mt"), {"suite_score": 1.0})], lambda config: 1.0) == []


def sweep(caches: Path, out: Path) -> dict[str, Any]:
    words = (
        f"sweep -m coop-ca --shots 1 --seeds 1-2 --set epochs=10 --set lr=0.00001,0.02,1 --choose --json --out {out}"
    )
    done = CliRunner().invoke(app, [*words.split(), "--cache-dir", str(caches)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_test_rows_have_no_part_in_it(tmp_path: Path) -> None:
    caches = encode_datasets(load_backbone("demo", device="cpu"), tmp_path)  # which tells these classes apart
    poisoned = Path(shutil.copytree(caches, tmp_path / "poisoned"))
    for path in poisoned.glob("*/*.h5"):
        with h5py.File(path, "r+") as file:
            labels = file["test/labels"][()]
            file["test/labels"][()] = (labels + 1) % (labels.max() + 1)
    told, other = sweep(caches, tmp_path / "runs"), sweep(poisoned, tmp_path / "others")
    first, second = ([choice.pop("test") for choice in each["choices"]] for each in (told, other))
    assert max(first) == first[1] and max(second) != second[1]  # on these test rows it would be the worst
    assert told["choices"] == other["choices"]
    assert [choice["chosen"] for choice in told["choices"]] == [False, True, False]
    assert len(told["results"]) == 6
