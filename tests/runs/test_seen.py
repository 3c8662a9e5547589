"""Runs that learn from some classes or tasks and are scored on all: what reaches training, and what comes out."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from run_bench import DATASETS, RunBench, classifier_of, configure, least, make_task, results_of
from torch import Tensor

import cptlite
from cptlite.cache import FeatureCache
from cptlite.config import known_options
from cptlite.datasets.types import Task
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.methods.base import Problem
from cptlite.methods.table import METHODS
from cptlite.metrics import accuracy, harmonic_mean
from cptlite.runs.evaluate import check_test_rows, evaluate
from cptlite.runs.learn import Run, learn_runs
from cptlite.runs.predictions import TaskPredictions, suite_scores
from cptlite.runs.rows import draw_few_shots
from cptlite.runs.seen import leave_one_out, seen_sizes, seen_tasks
from cptlite.text.encoder import TextEncoder

KINDS = [(name, variant) for name, entry in METHODS.items() for variant in entry.variants or ("",)]
FOR_NEW_CLASSES = [(name, variant) for name, variant in KINDS if METHODS[name].scope_of(variant) != "class"]
FOR_NEW_TASKS = [(name, variant) for name, variant in KINDS if METHODS[name].scope_of(variant) == "everything"]
BASE = {"coins": 1, "leaves": 2, "shells": 1}
HELD_OUT = "leaves"


def given(variant: str, **more: Any) -> dict[str, Any]:
    return ({"variant": variant} if variant else {}) | more


# Who can


def test_what_a_method_learns_has_the_size_that_its_scope_says(bench: RunBench) -> None:
    tasks = [make_task(name, classes) for name, classes in DATASETS.items()]
    whole = Problem(tasks=tuple(tasks), text=bench.text)
    base = replace(whole, tasks=seen_tasks(tasks, list(BASE.values())))
    others = replace(whole, tasks=tuple(tasks[1:]))
    for name, variant in KINDS:
        entry = METHODS[name]
        if not entry.stepped or name == "cocoop":  # of one task at a time, with numbers of its own
            assert entry.scope_of(variant) == {"zeroshot": "everything", "cocoop": "task"}.get(name, "class")
            continue
        options = entry.new_options(**given(variant))

        def shapes(problem: Problem) -> list[torch.Size]:
            generator = torch.Generator().manual_seed(0)
            return [value.shape for value in entry.method(problem, options).start(generator).values()]  # noqa: B023

        wide = {"class": 0, "task": 1, "everything": 2}[entry.scope_of(variant)]
        assert (shapes(whole) == shapes(base), shapes(whole) == shapes(others)) == (wide > 0, wide > 1), name


@pytest.mark.parametrize(("name", "variant"), KINDS)
def test_methods_with_numbers_for_each_class_or_task_say_why_they_cannot(name: str, variant: str) -> None:
    for wanted, can in (("classes", FOR_NEW_CLASSES), ("held_out_tasks", FOR_NEW_TASKS)):
        value: Any = "base" if wanted == "classes" else (HELD_OUT,)
        if (name, variant) in can:
            configure(name, **given(variant, **{wanted: value}))
            continue
        with pytest.raises(UsageError, match=rf"^{name}.* learns numbers for each \w+ from .* give a method .*softcpt"):
            configure(name, **given(variant, **{wanted: value}))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="give one of the two"):
        configure("softcpt", classes="base", held_out_tasks=(HELD_OUT,))
    with pytest.raises(UsageError, match="nothing to carry over to one that is held out"):
        configure("coop-mt", separate=True, held_out_tasks=(HELD_OUT,))
    assert configure("softcpt", held_out_tasks=("b", "a", "b")) == configure("softcpt", held_out_tasks=("a", "b"))


def test_tasks_to_hold_out_are_those_there_are(bench: RunBench) -> None:
    tasks = [make_task(name, classes) for name, classes in DATASETS.items()]
    for names, message in (
        (("leaf",), "unknown task 'leaf' to hold out: give one of coins, leaves, shells"),
        (("all",), "means a run for each task, got it for one"),
        (tuple(DATASETS), "got all of them held out"),
    ):
        with pytest.raises(UsageError, match=message):
            bench.train("runs", configure("softcpt", held_out_tasks=names))
    assert not (bench.folder / "runs").exists()
    assert seen_sizes(configure("zeroshot", held_out_tasks=tuple(DATASETS)), tasks) == (0, 0, 0)
    config = configure("softcpt", held_out_tasks=("all",))
    assert leave_one_out(config, tasks) == [replace(config, held_out_tasks=(name,)) for name in DATASETS]
    assert leave_one_out(configure("softcpt"), tasks) == [configure("softcpt")]


# Poisoned rows


def poison(caches: Path, folder: Path, unseen: dict[str, int]) -> Path:
    """The caches with no number left in train and val rows of classes from some label on, by dataset."""
    shutil.copytree(caches, folder)
    for dataset, first in unseen.items():
        with h5py.File(folder / f"random-demo/{dataset}.h5", "r+") as file:
            for split, name in product(("train", "val"), ("features", "local", "pre")):
                values = file[split][name][:]
                values[file[split]["labels"][:] >= first] = np.nan
                file[split][name][:] = values
    return folder


def learned_bytes(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(("name", "variant"), FOR_NEW_CLASSES)
def test_no_row_of_a_new_class_reaches_training_or_validation(
    bench: RunBench, caches: Path, tmp_path: Path, name: str, variant: str
) -> None:
    other = RunBench(bench.backbone, poison(caches, tmp_path / "poisoned", BASE), tmp_path / "other")
    folders = [each.train("runs", least(name, **given(variant, classes="base"))) for each in (bench, other)]
    assert learned_bytes(folders[0]) == learned_bytes(folders[1]) and learned_bytes(folders[0])
    results = [results_of(folder) for folder in folders]
    assert results[0]["tasks"] == results[1]["tasks"]
    assert sorted(results[0]["tasks"]["leaves"]["classes"]) == DATASETS["leaves"]


@pytest.mark.parametrize(("name", "variant"), FOR_NEW_TASKS)
def test_no_row_of_a_task_held_out_reaches_training_or_validation(
    bench: RunBench, caches: Path, tmp_path: Path, name: str, variant: str
) -> None:
    other = RunBench(bench.backbone, poison(caches, tmp_path / "poisoned", {HELD_OUT: 0}), tmp_path / "other")
    config = least(name, **given(variant, held_out_tasks=(HELD_OUT,)))
    folders = [each.train("runs", config) for each in (bench, other)]
    assert learned_bytes(folders[0]) == learned_bytes(folders[1]) and learned_bytes(folders[0])
    results = results_of(folders[0])
    assert [task for task, scores in results["tasks"].items() if scores.get("held_out")] == [HELD_OUT]
    assert results["suite_score"] == results["tasks"][HELD_OUT]["acc1"]
    assert results["seen_score"] == np.mean([results["tasks"][task]["acc1"] for task in ("coins", "shells")])


def test_the_poison_is_one(bench: RunBench, caches: Path, tmp_path: Path) -> None:
    other = RunBench(bench.backbone, poison(caches, tmp_path / "poisoned", {HELD_OUT: 2}), tmp_path / "other")
    with pytest.raises(CptliteError, match=r"features that are finite .*leaves"):
        other.train("runs", least("coop-mt"))


def test_rows_are_those_of_all_classes_less_the_unseen(opened: list[FeatureCache]) -> None:
    device = torch.device("cpu")
    whole = draw_few_shots(opened, shots=2, seed=3, device=device)
    halves = draw_few_shots(opened, shots=2, seed=3, device=device, sizes=(1, 2, 1))
    others = draw_few_shots(opened, shots=2, seed=3, device=device, sizes=(2, 0, 2))
    for full, half, other in zip(whole, halves, others, strict=True):
        base = torch.isin(full.labels, torch.tensor([0, 2, 3, 5]))  # of dime, penny; ash, elm, oak; conch, whelk
        assert torch.equal(full.features[base], half.features)
        renumbered = torch.tensor([0, -1, 1, 2, -1, 3, -1])[full.labels[base]]
        assert torch.equal(renumbered, half.labels)
        seen = (full.labels < 2) | (full.labels >= 5)
        assert torch.equal(full.features[seen], other.features)
        assert torch.equal(torch.tensor([0, 1, -1, -1, -1, 2, 3])[full.labels[seen]], other.labels)


def test_names_of_new_classes_and_tasks_change_nothing_that_is_learned(
    bench: RunBench, opened: list[FeatureCache]
) -> None:
    config, sizes = configure("softcpt", variant="cata"), (1, 2, 0)
    tasks = [task for cache in opened for task in cache.tasks]
    train, val = draw_few_shots(opened, shots=2, seed=1, device=torch.device("cpu"), sizes=sizes)
    problem = Problem(tasks=seen_tasks(tasks, sizes), text=bench.text)
    learned = []
    for names in (["conch", "whelk"], ["limpet", "cowrie", "clam"]):
        new = [tasks[0], replace(tasks[1], class_names=("ash", "elm", names[0])), make_task("sea", names)]
        target = replace(problem, tasks=tuple(new))
        learned += learn_runs(problem, [Run(config=config, train=train, val=val)], target=target)
    assert all(torch.equal(learned[0].learnables[name], value) for name, value in learned[1].learnables.items())
    weights = [each.classifier.tensors()["weights"] for each in learned]
    torch.testing.assert_close(weights[0][:4], weights[1][:4])
    assert not torch.allclose(weights[0][4:6], weights[1][4:6], atol=1e-4)


# What is scored


class Noise:
    """Scores that depend on the image in no sensible way."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def scores(self, features: Tensor, classes: slice) -> Tensor:
        return torch.sin(1e4 * features[:, 30 : 30 + self.num_classes].double())[:, classes]


def test_base_rows_are_scored_over_base_classes_and_new_ones_over_new(opened: list[FeatureCache]) -> None:
    noise, first = Noise(7), 0
    predictions = evaluate(noise, opened, torch.device("cpu"), sizes=(1, 2, 1))  # type: ignore[arg-type]
    different = 0
    for cache, each, size in zip(opened, predictions, BASE.values(), strict=True):
        labels, count = cache.labels("test"), len(cache.tasks[0].class_names)
        scores = noise.scores(torch.from_numpy(cache.features("test")[:, 0]), slice(first, first + count)).numpy()
        base, new = labels < size, labels >= size
        wanted = {
            "base": accuracy(labels[base], scores[base][:, :size].argmax(axis=1)),
            "new": accuracy(labels[new], size + scores[new][:, size:].argmax(axis=1)),
        }
        overall = scores.argmax(axis=1)
        generalised = {"base": accuracy(labels[base], overall[base]), "new": accuracy(labels[new], overall[new])}
        found = each.scores()
        assert found | wanted == found
        assert found["harmonic"] == harmonic_mean(**wanted_pair(wanted))
        assert found["generalised"] == generalised | {"harmonic": harmonic_mean(**wanted_pair(generalised))}
        assert found["acc1"] == accuracy(labels, overall)
        different += wanted != generalised
        first += count
    assert different, "so that the two ways are not one"


def wanted_pair(halves: dict[str, float]) -> dict[str, float]:
    return {"first": halves["base"], "second": halves["new"]}


def test_the_suite_has_the_harmonic_mean_of_its_means() -> None:
    generalised = {"base": 0.5, "new": 0.0, "harmonic": 0.0}
    halves = ((0.9, 0.6), (0.5, 0.2))
    tasks = {
        str(number): {
            "metric": "acc1",
            "acc1": 0.1,
            "base": base,
            "new": new,
            "harmonic": harmonic_mean(base, new),
            "generalised": generalised,
        }
        for number, (base, new) in enumerate(halves)
    }
    found = suite_scores(tasks)
    assert found["base"] == pytest.approx(0.7) and found["new"] == pytest.approx(0.4)
    assert found["suite_score"] == found["harmonic"] == pytest.approx(2 * 0.7 * 0.4 / 1.1)
    assert found["harmonic"] != pytest.approx(np.mean([scores["harmonic"] for scores in tasks.values()]), abs=1e-3)
    assert found["generalised"] == generalised
    assert harmonic_mean(0.8047, 0.7169) == pytest.approx(0.7583, abs=5e-5), "CoCoOp's row of means"
    assert harmonic_mean(0.0, 0.5) == harmonic_mean(0.5, 0.0) == 0


def test_the_metric_of_the_halves_is_the_task_s() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2, 2, 3])
    of_half = np.array([0, 0, 0, 0, 2, 2, 2, 2])
    task = Task(id="a", name="a", class_names=("a", "b", "c", "d"), template="{}", metric="mean_per_class_recall")
    facts = {"images": (), "predicted": of_half, "ranks": labels, "probabilities": labels}
    base = np.array([True, True, False, False])
    each = TaskPredictions(task=task, labels=labels, of_half=of_half, base=base, **facts)  # type: ignore[arg-type]
    assert (each.scores()["base"], each.scores()["new"]) == (0.5, 0.5)
    counted = replace(each, task=replace(task, metric="acc1")).scores()
    assert (counted["base"], counted["new"]) == (0.75, 0.75)


def test_predictions_say_the_best_class_of_the_half(bench: RunBench) -> None:
    folder = bench.train("runs", least("coop-ca", classes="base"))
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tasks = results_of(folder)["tasks"]
    for task, size in BASE.items():
        names = DATASETS[task]
        own = [row for row in rows if row["task"] == task]
        assert all((row["of_half"] in names[:size]) == (row["label"] in names[:size]) for row in own)
        new = [row["of_half"] == row["label"] for row in own if row["label"] in names[size:]]
        assert tasks[task]["new"] == np.mean(new)


@pytest.mark.parametrize(("kept", "which"), [((0, 1), "new"), ((2,), "base")])
def test_a_half_without_test_rows_is_said_before_anything_is_learned(
    bench: RunBench, caches: Path, tmp_path: Path, kept: Sequence[int], which: str
) -> None:
    shutil.copytree(caches, tmp_path / "cache")
    with h5py.File(tmp_path / "cache/random-demo/leaves.h5", "r+") as file:
        labels = file["test/labels"][:]
        file["test/labels"][:] = np.where(np.isin(labels, kept), labels, kept[0])
    other = RunBench(bench.backbone, tmp_path / "cache", tmp_path)
    with pytest.raises(DataError, match=f"no test rows of the {which} classes of 'leaves'"):
        other.train("runs", least("coop-mt", classes="base"))
    assert not (tmp_path / "runs").exists()
    other.train("runs", least("coop-mt"))


def test_held_out_datasets_need_no_training_rows(opened: list[FeatureCache], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened[1], "num_rows", lambda split: 0)
    train, _ = draw_few_shots(opened, shots=2, seed=1, device=torch.device("cpu"), sizes=(2, 0, 2))
    assert len(train.labels) == 8
    check_test_rows(opened, (2, 0, 2))
    with pytest.raises(DataError, match="no train rows"):
        draw_few_shots(opened, shots=2, seed=1, device=torch.device("cpu"))


# The classifier of all names


@pytest.mark.slow
def test_the_classifier_of_all_names_is_that_of_the_learned_ones_and_more(bench: RunBench) -> None:
    for name, variant in FOR_NEW_CLASSES:
        if name in ("cocoop", "plot", "zeroshot"):
            continue
        config = configure(name, **given(variant, classes="base", separate=False))
        folder = bench.train("runs", config)
        stored = classifier_of(folder)
        assert list(stored.class_names) == [each for classes in DATASETS.values() for each in classes]
        problem = Problem(tasks=seen_tasks(stored.tasks, list(BASE.values())), text=bench.text)
        method = config.entry.method(problem, config.options)
        base = method.classifier(prompts(folder)).tensors()["weights"]
        torch.testing.assert_close(stored.classifier.tensors()["weights"][[0, 2, 3, 5]], base, rtol=0, atol=1e-5)


def prompts(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "prompts.safetensors")


# Resumed, together, from Python


SEEN = ({"classes": "base"}, {"held_out_tasks": (HELD_OUT,)})


@pytest.mark.parametrize("what", SEEN)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    bench: RunBench, what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    config = configure("softcpt", **what)
    whole = bench.train("whole", config)

    class Stopped(BaseException):
        """Ends the training from outside."""

    def stop(done: float, loss: float) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        bench.train("stopped", config, on_epoch=stop)
    again = bench.train("stopped", config)
    assert learned_bytes(again) == learned_bytes(whole)
    for name in ("results.json", "classifier.safetensors"):  # as if killed when the training was done
        (again / name).unlink()
    assert learned_bytes(bench.train("stopped", config)) == learned_bytes(whole)
    epochs: list[float] = []
    bench.train("stopped", config, on_epoch=lambda done, loss: epochs.append(done))
    assert epochs == [], "finished: not trained again"


@pytest.mark.slow
@pytest.mark.parametrize("what", SEEN)
def test_runs_together_are_those_alone(bench: RunBench, what: dict[str, Any]) -> None:
    configs = [configure("softcpt", seed=seed, **what) for seed in (1, 2)]
    together = bench.train_together("together", configs)
    for config, result in zip(configs, together, strict=True):
        alone = bench.train("alone", config)
        assert results_of(alone)["tasks"].keys() == result["tasks"].keys()
        folder = bench.train("together", config)
        for name, value in prompts(alone).items():
            torch.testing.assert_close(prompts(folder)[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="may differ in shots and seed alone"):
        bench.train_together("mixed", [configs[0], configure("softcpt")])


@pytest.mark.parametrize(
    "what", [{"classes": "base", "method": "kgcoop"}, *({"method": "softcpt", **each} for each in SEEN)]
)
def test_python_does_the_same(bench: RunBench, opened: list[FeatureCache], what: dict[str, Any]) -> None:
    method = what.pop("method")
    config = configure(method, **what)
    folder = bench.train("runs", config)
    results = json.loads((folder / "results.json").read_text())
    own = {each.name for _, each in known_options(config.entry)} - {"device", "precision", "linear_backend"}
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in config.to_json().items()}
    options = {name: value for name, value in flat.items() if name in own}
    model = cptlite.FewShotClassifier(method, bench.backbone, **options).fit(opened)
    read = cptlite.load_run(folder)
    for each in (model, read):
        assert each.evaluate(opened) == results["tasks"]
        assert np.array_equal(each.class_weights(), classifier_of(folder).classifier.tensors()["weights"].numpy())
    assert what.items() <= read.options.items()
    with pytest.raises(UsageError, match="linear-probe learns numbers for each class"):
        cptlite.FewShotClassifier("linear-probe", bench.backbone, classes="base", shots=2).fit(opened)


def test_tasks_learned_separately_have_classifiers_of_all_their_names(bench: RunBench) -> None:
    folder = bench.train("runs", configure("cocoop", classes="base"))
    text = TextEncoder(bench.backbone.text_tower, bench.backbone.tokenizer)
    stored = classifier_of(folder, text)
    assert len(stored.class_names) == 7
    features = torch.randn(2, bench.backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    assert stored.classifier.scores(features).shape == (2, 7)
