"""What a run keeps of each test image and class, and a classifier on other images of its classes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_bench import DATASETS, RunBench, least, make_task, results_of
from trees import draw_classes
from typer.testing import CliRunner

import cptlite
from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.types import Dataset, Rows, Task
from cptlite.datasets.views import ViewConfig
from cptlite.errors import DataError, UsageError
from cptlite.methods.table import METHODS
from cptlite.metrics import accuracy
from cptlite.runs.evaluate import evaluate
from cptlite.runs.matching import match_tasks

KINDS = ("linear-probe", "tip-adapter", "cocoop", "plot", "kgcoop")
"""Methods by the classifiers they end as; kgcoop's tasks are learned one by one."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", KINDS)
def test_a_run_keeps_what_it_predicts_and_the_recall_of_each_class(bench: RunBench, method: str) -> None:
    folder = bench.train("runs", least(method))
    rows, tasks = rows_of(folder), results_of(folder)["tasks"]
    assert list(rows[0]) == ["task", "image", "label", "predicted", "probability", "rank"]
    assert [row["task"] for row in rows] == [id for id, scores in tasks.items() for _ in range(scores["rows"])]
    for id, scores in tasks.items():
        own = [row for row in rows if row["task"] == id]
        right = {name: [r["predicted"] == name for r in own if r["label"] == name] for name in DATASETS[id]}
        assert scores["classes"] == DATASETS[id]
        assert scores["recall"] == [pytest.approx(np.mean(right[name])) for name in DATASETS[id]]
        assert scores["mean_per_class_recall"] == pytest.approx(np.mean(scores["recall"]))
        assert scores["acc1"] == pytest.approx(np.mean([row["rank"] == "1" for row in own]))
        for row in own:
            assert row["image"].startswith(row["label"] + "/") and (row["rank"] == "1") == (
                row["label"] == row["predicted"]
            )
            assert 1 <= int(row["rank"]) <= len(DATASETS[id]) and 0 < float(row["probability"]) <= 1


def test_ranks_are_places_in_the_order_of_scores(bench: RunBench) -> None:
    folder = bench.train("runs", least("prototype"))
    run, rows = cptlite.load_run(folder), iter(rows_of(folder))
    for cache in open_caches(bench.caches, bench.backbone):
        scores = run.scores(cache.features("test")[:, 0], cache.tasks[0].id)
        for row, label in zip(scores, cache.labels("test"), strict=True):
            assert int(next(rows)["rank"]) == 1 + int((row > row[label]).sum())
        cache.close()


class Equal:
    """Scores every class alike."""

    def scores(self, features: torch.Tensor, classes: slice) -> torch.Tensor:
        return torch.zeros(len(features), classes.stop - classes.start)


def test_of_equal_scores_the_first_class_is_predicted_and_ranks_first(opened: list[FeatureCache]) -> None:
    for each in evaluate(Equal(), opened, torch.device("cpu")):  # type: ignore[arg-type]
        assert not each.predicted.any()
        assert each.ranks.tolist() == (each.labels + 1).tolist()
        assert accuracy(each.labels, each.predicted) == np.mean(each.ranks == 1)


def test_a_class_without_test_images_has_no_recall(bench: RunBench, tmp_path: Path) -> None:
    shutil.copytree(bench.caches, tmp_path / "cache")
    with h5py.File(tmp_path / "cache/random-demo/leaves.h5", "r+") as file:
        labels = file["test/labels"][:]
        file["test/labels"][:] = np.where(labels == 1, 0, labels)
    folder = RunBench(bench.backbone, tmp_path / "cache", tmp_path).train("runs", least("zeroshot"))
    scores = results_of(folder)["tasks"]["leaves"]
    assert scores["recall"][1] is None and scores["classes"] == DATASETS["leaves"]
    assert scores["mean_per_class_recall"] == pytest.approx((scores["recall"][0] + scores["recall"][2]) / 2)


def test_a_damaged_file_of_predictions_is_seen(bench: RunBench) -> None:
    folder = bench.train("runs", least("prototype"))
    (folder / "predictions.csv").write_bytes((folder / "predictions.csv").read_bytes().replace(b"dime", b"Dime", 1))
    with pytest.raises(DataError, match=r"wrote at .*predictions\.csv, got a damaged file"):
        cptlite.load_run(folder)


def test_predictions_are_left_out_on_request(bench: RunBench, tmp_path: Path) -> None:
    words = f"train --method prototype --shots 2 --no-predictions --cache-dir {bench.caches} --out {tmp_path / 'runs'}"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    (results,) = (tmp_path / "runs").rglob("results.json")
    assert sorted(path.name for path in results.parent.iterdir()) == [
        "classifier.safetensors",
        "config.json",
        "results.json",
    ]


# Poisoned test rows


@pytest.fixture(scope="module")
def poisoned(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same caches with other test rows: none of their features, labels or paths is left."""
    folder = tmp_path_factory.mktemp("poisoned") / "cache"
    shutil.copytree(caches, folder)
    draw = np.random.default_rng(0)
    for path in folder.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            for name in ("features", "local", "pre"):
                file["test"][name][:] = draw.normal(size=file["test"][name].shape)
            file["test/labels"][:] = file["test/labels"][:][::-1]
            file["test/paths"][:] = np.array([b"?"] * len(file["test/paths"]), file["test/paths"].dtype)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_poisoned_test_rows_change_no_learned_byte(
    bench: RunBench, poisoned: Path, tmp_path: Path, method: str
) -> None:
    other = RunBench(bench.backbone, poisoned, tmp_path / "poisoned")
    folders = [each.train("runs", least(method)) for each in (bench, other)]
    learned = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")} for folder in folders
    ]
    assert learned[0] == learned[1] and learned[0]
    assert rows_of(folders[0]) != rows_of(folders[1]), "so that the change was one"


# Other images of the same classes


def renamed(dataset: Dataset, order: Sequence[int], names: Sequence[str]) -> Dataset:
    """The images of some classes of a dataset's one task, with the classes in another order."""
    (task,) = dataset.tasks
    splits = {}
    for split, rows in dataset.splits.items():
        kept = np.flatnonzero(np.isin(rows.labels, order))
        labels = np.array([order.index(label) for label in rows.labels[kept]], np.int32)
        splits[split] = Rows(paths=tuple(rows.paths[row] for row in kept), labels=labels, tasks=rows.tasks[kept])
    task = replace(task, id="shifted", class_names=tuple(names))
    return replace(dataset, name="shifted", tasks=(task,), splits=splits)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """Three caches of other drawings of leaves: classes in another order, spelt otherwise, and two of them."""
    folder = tmp_path_factory.mktemp("shifted")
    draw_classes(folder / "leaves", DATASETS["leaves"], images=6)
    (spec,) = load_catalog().resolve([str(folder / "leaves")])
    dataset = read_dataset(spec, folder)
    for name, order, names in (
        ("same", [0, 1, 2], ["ash", "elm", "oak"]),
        ("turned", [2, 0, 1], ["Oak", "ash", "ELM"]),
        ("some", [2, 0], ["oak", "ash"]),
    ):
        kinds = {"patches": True, "pre_projection": True}
        encode_dataset(renamed(dataset, order, names), backbone, folder / name, views=ViewConfig(), **kinds)
    return folder


@pytest.mark.parametrize("method", KINDS)
def test_other_images_of_the_same_classes_are_scored_in_any_order(bench: RunBench, shifted: Path, method: str) -> None:
    run = cptlite.load_run(bench.train("runs", least(method)))
    found = {}
    for name in ("same", "turned", "some"):
        (cache,) = open_caches(shifted / name, bench.backbone)
        found[name] = run.evaluate([cache])["shifted"]
        cache.close()
    same, turned, some = found.values()
    assert turned["classes"] == ["Oak", "ash", "ELM"]
    assert turned["recall"] == [same["recall"][2], same["recall"][0], same["recall"][1]]
    assert turned["acc1"] == same["acc1"]
    assert some["rows"] == same["rows"] * 2 // 3 and min(some["recall"][1], some["recall"][0]) >= 0
    assert some["recall"][0] >= same["recall"][2] and some["recall"][1] >= same["recall"][0], "fewer to mistake it for"


NAMES = st.lists(st.from_regex("[abA]{1,3}", fullmatch=True), min_size=1, max_size=5, unique_by=str.casefold)


@given(NAMES.flatmap(lambda names: st.tuples(st.just(names), st.permutations(names), st.integers(1, len(names)))))
def test_places_name_the_classes_again(drawn: tuple[list[str], list[str], int]) -> None:
    names, turned, number = drawn
    fitted = [make_task("before", ["x", "y"]), make_task("home", names), make_task("after", ["z"])]
    (place,) = match_tasks(fitted, [make_task("other", turned[:number])])
    inside = [name for task in fitted for name in task.class_names][place.classes]
    assert inside == names
    assert (inside if place.columns is None else [inside[column] for column in place.columns]) == turned[:number]


@pytest.mark.parametrize(
    ("fitted", "asked", "message"),
    [
        ({"a": ["x", "y"]}, ["x", "z"], "got some that 'a' does not have .'z'.: give a cache with classes"),
        ({"a": ["x", "y"]}, [*"xpqrst"], "'p', 'q', 'r' and 2 more"),
        ({"a": ["x", "y"], "b": ["y", "x"]}, ["x", "y"], "got those of several .a, b.: give it the id"),
        ({"a": ["x", "y", "Y"]}, ["y", "x"], "names that several classes of 'a' have"),
        ({"a": ["x", "y", "z"]}, ["y", "y"], "got some that 'a' does not have .'y', 'y'."),
    ],
)
def test_classes_that_were_not_fitted_are_named(fitted: dict[str, list[str]], asked: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        match_tasks([make_task(id, names) for id, names in fitted.items()], [make_task("other", asked)])


def test_of_tasks_with_the_same_classes_the_id_says_which() -> None:
    tasks: list[Task] = [make_task("a", ["x", "y"]), make_task("b", ["y", "x"]), make_task("c", ["y", "x", "z"])]
    assert [place.classes.start for place in match_tasks(tasks, tasks)] == [0, 2, 4]
    assert [place.columns for place in match_tasks(tasks, tasks)] == [None] * 3
    assert match_tasks(tasks[1:], [make_task("d", ["x", "y"])])[0].columns == (1, 0), "all of b before some of c"
    doubled = make_task("e", ["x", "x"])
    assert match_tasks([doubled], [replace(doubled, id="f")])[0].columns is None
