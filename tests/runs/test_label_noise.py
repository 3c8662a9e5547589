"""``--label-noise``: how many labels are wrong, which, and that nothing but training rows is touched."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from run_bench import RunBench, configure, least, make_task, results_of
from safetensors.numpy import load_file

from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows
from cptlite.runs import execute
from cptlite.runs.folders import run_folder
from cptlite.runs.label_noise import flip_labels
from cptlite.runs.learn import Run, learn_runs

TASKS = (make_task("animal", ["cat", "dog"]), make_task("alone", ["saw"]), make_task("fruit", ["fig", "kiwi", "plum"]))
LABELS = torch.tensor([0, 3, 1, 4, 5, 2, 2, 0, 3, 1, 4, 5, 5, 0, 3, 1, 4])


def rows() -> FewShotRows:
    return FewShotRows(features=torch.randn(len(LABELS), 2, 8), labels=LABELS.clone())


def of_task(labels: torch.Tensor) -> torch.Tensor:
    return torch.tensor([0, 0, 1, 2, 2, 2])[labels]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_so_many_labels_of_each_task_become_others_of_the_task(share: float) -> None:
    given = rows()
    noisy = flip_labels(given, TASKS, share=share, seed=1)
    assert noisy.features is given.features and torch.equal(given.labels, LABELS), "what was given stays"
    assert torch.equal(of_task(noisy.labels), of_task(LABELS))
    changed = noisy.labels != LABELS
    for task in range(3):
        own = of_task(LABELS) == task
        assert int(changed[own].sum()) == (0 if task == 1 else round(share * int(own.sum())))


def test_every_other_class_is_as_likely() -> None:
    many = FewShotRows(features=torch.zeros(6000, 1, 1), labels=torch.full((6000,), 4))
    counts = Counter(flip_labels(many, TASKS, share=0.5, seed=3).labels.tolist())
    assert counts[4] == 3000 and counts.keys() == {3, 4, 5}
    assert abs(counts[3] - 1500) < 150  # five standard deviations


def test_seed_and_task_say_which() -> None:
    one, again, other = (flip_labels(rows(), TASKS, share=0.5, seed=seed).labels for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    fruit = LABELS >= 3
    alone = FewShotRows(features=torch.zeros(int(fruit.sum()), 1, 1), labels=LABELS[fruit] - 3)
    found = flip_labels(alone, TASKS[2:], share=0.5, seed=1).labels
    assert torch.equal(found + 3, one[fruit]), "whatever other tasks there are"


@pytest.mark.parametrize("method", ["linear-probe", "coop-ca"])
def test_a_run_learns_from_wrong_labels_and_is_scored_on_right_ones(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    seen: list[Run] = []

    def watched(problem: object, runs: list[Run], *more: object) -> object:
        seen.extend(runs)
        return learn_runs(problem, runs, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "learn_runs", watched)
    clean, noisy = (bench.train("runs", least(method, label_noise=share)) for share in (0.0, 0.25))
    right, wrong = seen
    assert torch.equal(right.train.features, wrong.train.features)
    assert torch.equal(right.val.labels, wrong.val.labels) and torch.equal(right.val.features, wrong.val.features)
    changed = right.train.labels != wrong.train.labels
    sizes = {"coins": 4, "leaves": 6, "shells": 4}  # of two shots
    assert int(changed.sum()) == sum(round(0.25 * size) for size in sizes.values())
    counts = [each["rows"] for each in results_of(noisy)["tasks"].values()]
    assert counts == [each["rows"] for each in results_of(clean)["tasks"].values()]
    assert noisy != clean and "-label_noise0.25" in noisy.parent.parent.name
    assert json.loads((noisy / "config.json").read_text())["config"]["label_noise"] == 0.25
    one, other = (load_file(folder / "classifier.safetensors")["weights"] for folder in (clean, noisy))
    assert abs(one - other).max() > 0


def test_separate_tasks_have_the_labels_they_have_jointly(bench: RunBench) -> None:
    """A task learned alone, of several or as the only one."""
    several = bench.train("runs", configure("coop-ca", separate=True, label_noise=0.5))
    alone = bench.train("runs", configure("coop-ca", datasets=("leaves",), suite="one", label_noise=0.5))
    both = (several / "tasks" / "leaves", alone)
    assert both[0].joinpath("prompts.safetensors").read_bytes() == both[1].joinpath("prompts.safetensors").read_bytes()


def test_an_earlier_run_counts_as_one_without_noise(bench: RunBench) -> None:
    folder = bench.train("runs", least("coop-ca"))
    assert folder == run_folder(bench.folder / "runs", least("coop-ca", label_noise=0.0))
    with pytest.raises(UsageError, match="label-noise must be from 0 to 1, got 1.5"):
        least("coop-ca", label_noise=1.5)
