"""``--separate``: each task is learned as if there were no other, and the results have the form of joint ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_bench import DATASETS, QUICK, RunBench, classifier_of, configure, make_task, results_of
from safetensors.numpy import load_file

from cptlite.classifiers import JoinedClassifier, LinearClassifier, join_classifiers
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptMethod
from cptlite.runs.folders import run_folder
from cptlite.runs.learn import Run, learn_runs
from cptlite.training.loop import train
from cptlite.training.state import TrainingState

BATCH, EPOCHS = QUICK["batch_size"], QUICK["epochs"]
DIM = 128  # of the backbone


@pytest.mark.parametrize("method", ["coop-ca", "softcpt", "kgcoop"])
def test_one_task_is_learned_the_same_way_jointly_and_separately(bench: RunBench, method: str) -> None:
    separate, joint = (
        bench.train(str(flag), configure(method, datasets=("leaves",), separate=flag)) for flag in (True, False)
    )
    assert sorted(path.name for path in separate.iterdir()) == sorted(path.name for path in joint.iterdir())
    for name in ("prompts.safetensors", "classifier.safetensors"):
        assert (separate / name).read_bytes() == (joint / name).read_bytes()


@pytest.mark.parametrize("method", ["coop-mt", "coop-cs", "kgcoop", "prograd", "softcpt", "cocoop"])
def test_each_task_is_learned_as_if_alone(bench: RunBench, method: str) -> None:
    folder = bench.train("all", configure(method, separate=True))
    learned, stored, results = (
        load_file(folder / "prompts.safetensors"),
        classifier_of(folder, bench.text),
        results_of(folder),
    )
    assert stored.class_names == tuple(name for names in DATASETS.values() for name in names)
    assert [task.id for task in stored.tasks] == list(DATASETS)
    joined = stored.classifier.tensors()
    parameters, names = 0, set()
    for index, dataset in enumerate(DATASETS):
        alone = bench.train(dataset, configure(method, datasets=(dataset,), suite=dataset, separate=True))
        for name, value in load_file(alone / "prompts.safetensors").items():
            names.add(f"{dataset}/{name}")
            assert np.array_equal(learned[f"{dataset}/{name}"], value)
        own = classifier_of(alone, bench.text).classifier
        if method == "cocoop":
            assert isinstance(stored.classifier, JoinedClassifier)
            assert stored.classifier.parts[index].values() == own.values()
            parts = {name: joined[f"{index}/{name}"] for name in own.tensors()}
        else:
            assert stored.classifier.values() == own.values()
            parts = {name: value[stored.classes_of(dataset)] for name, value in joined.items()}
        assert parts.keys() == own.tensors().keys()
        for name, value in own.tensors().items():
            assert torch.equal(parts[name], value), name
        assert results["tasks"][dataset] == results_of(alone)["tasks"][dataset]
        parameters += results_of(alone)["parameters"]
    assert learned.keys() == names
    assert results["parameters"] == parameters
    assert set(results["seconds"]) == {"load", "train", "evaluate"}
    assert results["seconds"]["train"] > 0


def test_a_tasks_epoch_is_its_own_rows(bench: RunBench) -> None:
    told: list[float] = []
    folder = bench.train("runs", configure("coop-ca", separate=True), lambda done, _: told.append(done))
    for dataset, names in DATASETS.items():
        lines = (folder / "tasks" / dataset / "log.jsonl").read_text().splitlines()
        assert len(lines) == EPOCHS * (2 * len(names) // BATCH)
    assert not (folder / "log.jsonl").exists()
    assert not list(folder.rglob("checkpoint.pt"))
    np.testing.assert_allclose(told, np.arange(1, 3 * EPOCHS + 1) / 3)


def test_what_the_tasks_do_not_share_is_the_same_number_of_parameters(bench: RunBench) -> None:
    counts = [
        results_of(bench.train(str(flag), configure("coop-ca", separate=flag)))["parameters"] for flag in (True, False)
    ]
    assert counts[0] == counts[1]


class Killed(BaseException):
    pass


def kill_in(training: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run in the second epoch of its n-th training."""
    begun = []

    def watched(method: PromptMethod, states: Sequence[TrainingState], **more: Any) -> None:
        begun.append(method)
        for state in states:
            tell = state.on_epoch

            def count(done: int, loss: float, tell: Callable[[int, float], None] | None = tell) -> None:
                if tell:
                    tell(done, loss)
                if len(begun) == training and done == 2:
                    raise Killed

            state.on_epoch = count
        train(method, states, **more)

    monkeypatch.setattr("cptlite.runs.learn.train", watched)


@pytest.mark.parametrize("method", ["softcpt", "cocoop"])
def test_a_killed_run_goes_on_with_the_unfinished_task(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    config = configure(method, separate=True)
    undisturbed = bench.train("undisturbed", config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(2, patch)
        bench.train("killed", config)
    folder = run_folder(bench.folder / "killed", config)
    assert [path.parent.name for path in folder.rglob("prompts.safetensors")] == ["coins"]
    with pytest.raises(
        UsageError, match=r"holds a run of another configuration .*text_path 'fused' there, 'plain' asked"
    ):
        bench.train("killed", configure(method, separate=True, text_path="plain"))
    log = (folder / "tasks/coins/log.jsonl").read_bytes()
    told: list[float] = []
    bench.train("killed", config, lambda done, _: told.append(done))
    assert told[0] == pytest.approx((EPOCHS + 3) / 3), "neither the first task nor the second's two epochs again"
    assert told[-1] == EPOCHS
    assert (folder / "tasks/coins/log.jsonl").read_bytes() == log
    for name in ("prompts.safetensors", "classifier.safetensors"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    assert results_of(folder)["tasks"] == results_of(undisturbed)["tasks"]
    assert not list(folder.rglob("checkpoint.pt"))


def test_a_run_killed_between_two_tasks_is_begun(bench: RunBench, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("coop-ca", separate=True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(2, patch)
        bench.train("runs", config)
    folder = run_folder(bench.folder / "runs", config)
    assert not list(folder.rglob("checkpoint.pt"))
    with pytest.raises(UsageError, match="text_path 'fused' there, 'plain' asked"):
        bench.train("runs", configure("coop-ca", separate=True, text_path="plain"))
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
    bench: RunBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag, others in ((True, "log.jsonl"), (False, "tasks")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in(1, patch)
            bench.train(str(flag), configure("coop-ca", separate=not flag))
        folder = bench.train(str(flag), configure("coop-ca", separate=flag))
        assert not (folder / others).exists()


@pytest.mark.parametrize("method", ["coop-ca", "cocoop", "softcpt"])
def test_runs_of_a_task_train_together(bench: RunBench, method: str) -> None:
    configs = [configure(method, separate=True, shots=shots, seed=seed) for shots, seed in ((1, 1), (2, 1), (2, 2))]
    told: list[float] = []
    together = bench.train_together("together", configs, lambda done, _: told.append(done))
    assert told[-1] == pytest.approx(3 * EPOCHS)
    assert told == sorted(told)
    for config, results in zip(configs, together, strict=True):
        alone = bench.train("alone", config)
        ours = load_file(run_folder(bench.folder / "together", config) / "prompts.safetensors")
        for name, value in load_file(alone / "prompts.safetensors").items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6)
        assert results["tasks"] == results_of(alone)["tasks"]


def rows_of(*labels: int) -> FewShotRows:
    return FewShotRows(features=torch.randn(len(labels), 1, DIM), labels=torch.tensor(labels))


def test_a_task_without_rows_of_its_own_is_refused(bench: RunBench, tmp_path: Path) -> None:
    tasks = (make_task("fruit", ["fig", "kiwi"]), make_task("animal", ["cat", "dog"]))
    rows = rows_of(0, 1, 0, 1)
    run = Run(config=configure("coop-ca", separate=True), train=rows, val=rows, folder=tmp_path)
    with pytest.raises(DataError, match="task 'animal' has no training rows .*--no-separate"):
        learn_runs(Problem(tasks=tasks, text=bench.text), [run])


def test_ids_that_file_systems_would_read_as_paths(bench: RunBench, tmp_path: Path) -> None:
    tasks = (make_task("a/b", ["fig"]), make_task("a%2Fb", ["cat"]), make_task("..", ["saw"]))
    rows = rows_of(0, 1, 2, 0, 1, 2)
    run = Run(config=configure("coop-ca", separate=True), train=rows, val=rows, folder=tmp_path / "run")
    (learned,) = learn_runs(Problem(tasks=tasks, text=bench.text), [run])
    assert learned.learnables.keys() == {"a/b/context", "a%2Fb/context", "../context"}
    assert len(list((tmp_path / "run/tasks").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Constant:
    """Scores every class by its place among its own."""

    def __init__(self, size: int) -> None:
        self.size = size

    def scores(self, features: torch.Tensor, classes: slice = slice(None)) -> torch.Tensor:
        return torch.arange(float(self.size)).expand(len(features), -1)[:, classes]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"size": torch.tensor(self.size)}


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
    assert {name: int(value) for name, value in joined.tensors().items()} == {"0/size": 2, "1/size": 1, "2/size": 3}


def test_linear_classifiers_join_to_one() -> None:
    parts = [LinearClassifier.from_prompts(torch.eye(4)[rows], 2.0) for rows in ([0, 1], [3])]
    joined = join_classifiers(parts, [2, 1])
    assert isinstance(joined, LinearClassifier)
    assert torch.equal(joined.weights, torch.eye(4)[[0, 1, 3]])
