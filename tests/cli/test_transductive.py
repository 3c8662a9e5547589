"""``cptlite eval --transductive``: what comes out stands apart from all that is predicted row by row."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from run_bench import encode_datasets
from torch import Tensor
from trees import draw_classes
from typer.testing import CliRunner, Result

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import DataError
from cptlite.methods.probes.transclip import Labelled
from cptlite.runs import transductive
from cptlite.runs.load import read_run
from cptlite.runs.matching import match_tasks
from cptlite.runs.transductive import read_transduction

NAMES = ("coins", "leaves", "shells")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture(scope="module")
def caches(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets, and leaves drawn anew, their classes in another order and one fewer."""
    folder = tmp_path_factory.mktemp("shelf")
    encode_datasets(backbone, folder)
    draw_classes(folder / "autumn", ["Oak", "ash"], images=6)
    (spec,) = load_catalog().resolve([str(folder / "autumn")])
    encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig())
    return folder / "cache"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def train(caches: Path, out: Path, *words: str) -> Path:
    named = [word for name in NAMES for word in ("--dataset", name)]
    done = call("train", *named, "--shots", "2", "--device", "cpu", *words, "--cache-dir", caches, "--out", out)
    assert done.exit_code == 0, done.output
    (results,) = out.rglob("results.json")
    return results.parent


@pytest.fixture(scope="module")
def few_shot(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(caches, tmp_path_factory.mktemp("few"), "--method", "tip-adapter")


def evaluate(run: Path, caches: Path, *words: str) -> dict[str, Any]:
    done = call("eval", run, "--transductive", "--cache-dir", caches, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["results"][0]


def test_a_few_shot_run_takes_its_rows_and_chooses_gamma(few_shot: Path, caches: Path) -> None:
    before = {path.name: path.read_bytes() for path in few_shot.iterdir() if path.is_file()}
    found = evaluate(few_shot, caches)
    assert {path.name: path.read_bytes() for path in few_shot.iterdir() if path.is_file()} == before
    path = few_shot / "eval/transductive-on-coins+leaves+shells.json"
    assert json.loads(path.read_text()) == found
    said = found["transductive"]
    assert said["method"] == "transclip" and "all test rows" in said["sees"]
    assert said["tasks"].keys() == found["tasks"].keys() == {*NAMES}
    counts = {name: sum(json.loads(before["results.json"])["images_per_class"][name]) for name in NAMES}
    for name, chosen in said["tasks"].items():
        assert chosen["lambda"] == 0.5 and chosen["labelled"] == counts[name]
        assert chosen["gamma"] in (0.002, 0.01, 0.02, 0.2)


def test_a_zero_shot_run_takes_no_rows(caches: Path, tmp_path: Path) -> None:
    run = train(caches, tmp_path, "--method", "zeroshot")
    found = evaluate(run, caches, "--dataset", "leaves")
    assert found["transductive"]["tasks"] == {"leaves": {"lambda": 1.0, "labelled": 0}}
    assert all(0 <= score <= 1 for score in found["tasks"]["leaves"]["recall"])


def test_it_is_said_on_screen_and_never_in_a_report(few_shot: Path, caches: Path) -> None:
    shown = call("eval", few_shot, "--transductive", "--cache-dir", caches)
    assert "tip-adapter + transclip (transductive)" in shown.stdout and "seen together" in shown.stdout
    plain = call("eval", few_shot, "--cache-dir", caches)
    assert "transductive" not in plain.stdout and "seen together" not in plain.stdout
    out = few_shot.parents[3]
    report = call("report", out, "--json")
    assert report.exit_code == 0 and "transductive" not in report.stdout
    written = few_shot / "eval/transductive-on-coins+leaves+shells.json"
    refused = call("report", out, written)
    assert refused.exit_code == 3 and "do not compare" in refused.stderr


def test_classes_in_another_order_and_fewer(
    few_shot: Path, caches: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labelled rows are numbered as the classes of the other dataset."""
    found = evaluate(few_shot, caches, "--dataset", "autumn")
    assert found["tasks"]["autumn"]["classes"] == ["Oak", "ash"]
    assert found["transductive"]["tasks"]["autumn"]["labelled"] == 4
    run, opened = read_run(few_shot), open_caches(caches, backbone, [*NAMES, "autumn"])
    autumn = opened.pop()
    read = read_transduction(run.config, run.stored.tasks, opened, run.trained_on, torch.device("cpu"))
    (place,) = match_tasks(run.stored.tasks, autumn.tasks)
    leaves = [name.lower() for name in run.stored.tasks[place.home].class_names]
    wanted = [leaves[label] for label in read.train[place.home].labels if leaves[label] in ("oak", "ash")]
    seen = {}

    def transduce(x: Tensor, scores: Tensor, train: Labelled, val: Labelled) -> tuple[Tensor, dict[str, float]]:
        seen["train"] = train
        return scores, {}

    monkeypatch.setattr(transductive, "transduce", transduce)
    read(place, torch.ones(1, 4), torch.ones(1, 2))
    assert [("oak", "ash")[label] for label in seen["train"].y] == wanted
    for cache in (*opened, autumn):
        cache.close()


def test_labels_of_test_rows_move_no_prediction(few_shot: Path, caches: Path, tmp_path: Path) -> None:
    shutil.copytree(caches, tmp_path / "other")
    for path in (tmp_path / "other").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["test/labels"][:] = file["test/labels"][:][::-1]
    written = []
    for index, folder in enumerate((caches, tmp_path / "other")):
        evaluate(few_shot, folder, "--predictions", str(tmp_path / f"{index}.csv"))
        with (tmp_path / f"{index}.csv").open(newline="") as lines:
            written.append(list(csv.DictReader(lines)))
    columns = ("task", "image", "predicted", "probability")
    first, second = ([[row[name] for name in columns] for row in rows] for rows in written)
    assert first == second
    assert [row["label"] for row in written[0]] != [row["label"] for row in written[1]], "so that the change was one"


@pytest.mark.slow
def test_new_classes_have_no_labelled_rows(caches: Path, tmp_path: Path) -> None:
    run = train(caches, tmp_path, "--method", "coop-ca", "--epochs", "1", "--classes", "base")
    found = evaluate(run, caches)
    assert all(math.isfinite(scores["harmonic"]) for scores in found["tasks"].values())
    config = json.loads((run / "results.json").read_text())["images_per_class"]
    assert {name: each["labelled"] for name, each in found["transductive"]["tasks"].items()} == {
        name: sum(counts) for name, counts in config.items()
    }


def test_what_cannot_be_is_refused(few_shot: Path, caches: Path, backbone: Backbone) -> None:
    val = call("eval", few_shot, "--transductive", "--split", "val", "--cache-dir", caches)
    assert val.exit_code == 2 and "leave one of the two out" in val.stderr
    run, own = read_run(few_shot), open_caches(caches, backbone, NAMES)
    with pytest.raises(DataError, match="as it was when the run was trained"):
        read_transduction(run.config, run.stored.tasks, own, {}, torch.device("cpu"))
    for cache in own:
        cache.close()
