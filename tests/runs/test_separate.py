"""``--separate``: each task is learned as if there were no other, and the results have the form of joint ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import make_task, text_encoder
from safetensors.numpy import load_file
from trees import draw_classes

from cptlite.backbones.clip import Backbone, load_backbone
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import JoinedClassifier, LinearClassifier, join_classifiers
from cptlite.config import TrainConfig
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.methods.table import resolve_config
from cptlite.runs.execute import execute_run, execute_together
from cptlite.runs.files import run_folder
from cptlite.runs.learn import PromptRun, learn_prompts
from cptlite.training.loop import Recipe, TrainingRun, train_together

DATASETS = {"coins": ["dime", "penny"], "leaves": ["ash", "elm", "oak"], "shells": ["conch", "whelk"]}
BATCH = 2
EPOCHS = 3


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo")


@pytest.fixture(scope="module")
def caches(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name, classes in DATASETS.items():
        draw_classes(folder / name, classes, images=8)
        (spec,) = load_catalog().resolve([str(folder / name)])
        encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig())
    return folder / "cache"


def configure(method: str, **given: Any) -> TrainConfig:
    chosen = {"datasets": tuple(DATASETS), "suite": "shelf", "shots": 2, "epochs": EPOCHS, "batch_size": BATCH}
    return resolve_config({"method": method, "backbone": "random:demo", **chosen, **given})


class Bench:
    """Trains into folders of its own."""

    def __init__(self, backbone: Backbone, caches: Path, folder: Path) -> None:
        self.backbone, self.caches, self.folder = backbone, caches, folder

    def train(self, out: str, config: TrainConfig, on_epoch: Any = None) -> Path:
        place = {"cache_dir": self.caches, "out": self.folder / out}
        execute_run(config, self.backbone, **place, on_epoch=on_epoch)
        return run_folder(self.folder / out, config)


@pytest.fixture
def bench(backbone: Backbone, caches: Path, tmp_path: Path) -> Bench:
    return Bench(backbone, caches, tmp_path)


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def classifier_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "classifier.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("method", ["coop-ca", "softcpt", "kgcoop"])
def test_one_task_is_learned_the_same_way_jointly_and_separately(bench: Bench, method: str) -> None:
    separate, joint = (
        bench.train(str(flag), configure(method, datasets=("leaves",), separate=flag)) for flag in (True, False)
    )
    assert sorted(path.name for path in separate.iterdir()) == sorted(path.name for path in joint.iterdir())
    for name in ("prompts.safetensors", "classifier.npz"):
        assert (separate / name).read_bytes() == (joint / name).read_bytes()


@pytest.mark.parametrize("method", ["coop-mt", "coop-cs", "kgcoop", "prograd", "softcpt", "cocoop"])
def test_each_task_is_learned_as_if_alone(bench: Bench, method: str) -> None:
    folder = bench.train("all", configure(method, separate=True))
    learned, classifier, results = load_file(folder / "prompts.safetensors"), classifier_of(folder), results_of(folder)
    assert classifier["names"].tolist() == [name for names in DATASETS.values() for name in names]
    assert classifier["tasks"].tolist() == [task for task, names in DATASETS.items() for _ in names]
    parameters, names = 0, set()
    for index, dataset in enumerate(DATASETS):
        alone = bench.train(dataset, configure(method, datasets=(dataset,), suite=dataset, separate=True))
        for name, value in load_file(alone / "prompts.safetensors").items():
            names.add(f"{dataset}/{name}")
            assert np.array_equal(learned[f"{dataset}/{name}"], value)
        own = classifier_of(alone)
        for name in own.keys() - {"names", "tasks"}:
            if method == "cocoop":
                assert np.array_equal(classifier[f"{index}/{name}"], own[name])
            elif name in ("weights", "bias"):
                assert np.array_equal(classifier[name][classifier["tasks"] == dataset], own[name])
            else:
                assert np.array_equal(classifier[name], own[name])
        assert results["tasks"][dataset] == results_of(alone)["tasks"][dataset]
        parameters += results_of(alone)["parameters"]
    assert learned.keys() == names
    assert results["parameters"] == parameters
    assert set(results["seconds"]) == {"load", "train", "evaluate"}
    assert results["seconds"]["train"] > 0


def test_a_tasks_epoch_is_its_own_rows(bench: Bench) -> None:
    told: list[float] = []
    folder = bench.train("runs", configure("coop-ca", separate=True), lambda done, _: told.append(done))
    for dataset, names in DATASETS.items():
        lines = (folder / "tasks" / dataset / "log.jsonl").read_text().splitlines()
        assert len(lines) == EPOCHS * (2 * len(names) // BATCH)
    assert not (folder / "log.jsonl").exists()
    assert not list(folder.rglob("checkpoint.pt"))
    np.testing.assert_allclose(told, np.arange(1, 3 * EPOCHS + 1) / 3)


def test_what_the_tasks_do_not_share_is_the_same_number_of_parameters(bench: Bench) -> None:
    counts = [
        results_of(bench.train(str(flag), configure("coop-ca", separate=flag)))["parameters"] for flag in (True, False)
    ]
    assert counts[0] == counts[1]


class Killed(BaseException):
    pass


def kill_in(training: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run in the second epoch of its n-th training."""
    begun = []

    def watched(method: PromptMethod, runs: Sequence[TrainingRun], recipe: Recipe) -> None:
        begun.append(method)
        for run in runs:
            tell = run.on_epoch

            def count(done: int, loss: float, tell: Callable[[int, float], None] | None = tell) -> None:
                if tell:
                    tell(done, loss)
                if len(begun) == training and done == 2:
                    raise Killed

            run.on_epoch = count
        train_together(method, runs, recipe)

    monkeypatch.setattr("cptlite.runs.learn.train_together", watched)


@pytest.mark.parametrize("method", ["softcpt", "cocoop"])
def test_a_killed_run_goes_on_with_the_unfinished_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    config = configure(method, separate=True)
    undisturbed = bench.train("undisturbed", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(2, patch)
        bench.train("killed", config)
    folder = run_folder(bench.folder / "killed", config)
    assert [path.parent.name for path in folder.rglob("prompts.safetensors")] == ["coins"]
    with pytest.raises(UsageError, match=r"holds a run of another configuration .*lr 0.002 there, 0.1 asked"):
        bench.train("killed", configure(method, separate=True, lr=0.1))
    log = (folder / "tasks/coins/log.jsonl").read_bytes()
    told: list[float] = []
    bench.train("killed", config, lambda done, _: told.append(done))
    assert told[0] == pytest.approx((EPOCHS + 3) / 3), "neither the first task nor the second's two epochs again"
    assert told[-1] == EPOCHS
    assert (folder / "tasks/coins/log.jsonl").read_bytes() == log
    for name in ("prompts.safetensors", "classifier.npz"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert results_of(folder)["tasks"] == results_of(undisturbed)["tasks"]
    assert not list(folder.rglob("checkpoint.pt"))


def test_a_run_killed_between_two_tasks_is_begun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("coop-ca", separate=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(2, patch)
        bench.train("runs", config)
    folder = run_folder(bench.folder / "runs", config)
    assert not list(folder.rglob("checkpoint.pt"))
    with pytest.raises(UsageError, match="separate True there, False asked"):
        bench.train("runs", configure("coop-ca"))
    mark = folder / "tasks/coins/prompts.safetensors"
    learned = mark.read_bytes()
    mark.write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"tasks/coins, got files that cannot be read .*--force"):
        bench.train("runs", config)
    mark.write_bytes(learned)
    told: list[float] = []
    bench.train("runs", config, lambda done, _: told.append(done))
    assert told[0] == pytest.approx((EPOCHS + 1) / 3), "the first task is not learned again"


def test_the_other_kind_of_an_attempt_that_came_to_nothing_leaves_no_trace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag, others in ((True, "log.jsonl"), (False, "tasks")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in(1, patch)
            bench.train(str(flag), configure("coop-ca", separate=not flag))
        folder = bench.train(str(flag), configure("coop-ca", separate=flag))
        assert not (folder / others).exists()


@pytest.mark.parametrize("method", ["coop-ca", "cocoop", "softcpt"])
def test_runs_of_a_task_train_together(bench: Bench, method: str) -> None:
    configs = [configure(method, separate=True, shots=shots, seed=seed) for shots, seed in ((1, 1), (2, 1), (2, 2))]
    place = {"cache_dir": bench.caches, "out": bench.folder / "together"}
    told: list[float] = []
    together = execute_together(configs, bench.backbone, **place, on_epoch=lambda done, _: told.append(done))
    assert told[-1] == pytest.approx(3 * EPOCHS)
    assert told == sorted(told)
    for config, results in zip(configs, together, strict=True):
        alone = bench.train("alone", config)
        ours = load_file(run_folder(bench.folder / "together", config) / "prompts.safetensors")
        for name, value in load_file(alone / "prompts.safetensors").items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6)
        assert results["tasks"] == results_of(alone)["tasks"]


def test_a_task_without_rows_of_its_own_is_refused(tmp_path: Path) -> None:
    tasks = (make_task("fruit", ["fig", "kiwi"]), make_task("animal", ["cat", "dog"]))
    rows = FewShotRows(features=torch.randn(4, 1, 32), labels=torch.tensor([0, 1, 0, 1]))
    run = PromptRun(config=configure("coop-ca", separate=True), rows=rows, folder=tmp_path)
    with pytest.raises(DataError, match="task 'animal' has no training rows .*--no-separate"):
        learn_prompts(Problem(tasks=tasks, text=text_encoder("fused")), [run])


def test_ids_that_file_systems_would_read_as_paths(tmp_path: Path) -> None:
    tasks = (make_task("a/b", ["fig"]), make_task("a%2Fb", ["cat"]), make_task("..", ["saw"]))
    rows = FewShotRows(features=torch.randn(6, 1, 32), labels=torch.arange(6) % 3)
    run = PromptRun(config=configure("coop-ca", separate=True), rows=rows, folder=tmp_path / "run")
    (learned,) = learn_prompts(Problem(tasks=tasks, text=text_encoder("fused")), [run])
    assert learned.learnables.keys() == {"a/b/context", "a%2Fb/context", "../context"}
    assert len(list((tmp_path / "run/tasks").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Constant:
    """Scores every class by its place among its own."""

    def __init__(self, size: int) -> None:
        self.size = size

    def scores(self, features: torch.Tensor, classes: slice = slice(None)) -> torch.Tensor:
        return torch.arange(float(self.size)).expand(len(features), -1)[:, classes]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"size": np.array(self.size)}


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (slice(None), [0, 1, 0, 0, 1, 2]),
        (slice(2, 3), [0]),
        (slice(3, 6), [0, 1, 2]),
        (slice(1, 5), [1, 0, 0, 1]),
    ],
    ids=str,
)
def test_a_range_of_classes_is_dispatched_to_its_tasks(classes: slice, wanted: list[int]) -> None:
    joined = join_classifiers([Constant(2), Constant(1), Constant(3)], [2, 1, 3])
    assert isinstance(joined, JoinedClassifier)
    assert joined.scores(torch.zeros(2, 4), classes).tolist() == [wanted] * 2
    assert {name: int(value) for name, value in joined.arrays().items()} == {"0/size": 2, "1/size": 1, "2/size": 3}


def test_linear_classifiers_join_to_one() -> None:
    parts = [LinearClassifier.from_prompts(torch.eye(4)[rows], 2.0) for rows in ([0, 1], [3])]
    joined = join_classifiers(parts, [2, 1])
    assert isinstance(joined, LinearClassifier)
    assert torch.equal(joined.weights, torch.eye(4)[[0, 1, 3]])
