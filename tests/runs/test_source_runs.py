"""Runs that start where another ended: learned first or given, what fits, stopped anywhere, and changed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_bench import DATASETS, RunBench, configure, results_of
from safetensors.torch import load_file
from test_separate import Killed, kill_in

from cptlite.cache import FeatureCache
from cptlite.config import RunConfig
from cptlite.errors import DataError, UsageError
from cptlite.runs.contexts import read_contexts
from cptlite.runs.execute import learn_in_memory
from cptlite.runs.folders import run_folder
from cptlite.runs.load import read_run
from cptlite.runs.rows import count_steps
from cptlite.runs.sources import given_source, learns_source, pinned

ADAPT, FIRST = "mvlpt-mcoop-adapt", "mvlpt-mcoop"
SHORT = {"context_length": 4}
PROMPTS = "prompts.safetensors"


def adapt(**given: Any) -> RunConfig:
    return pinned(configure(ADAPT, **{**SHORT, **given}))


def test_what_is_learned_first_is_that_run_and_given_it_is_the_same(
    bench: RunBench, opened: list[FeatureCache]
) -> None:
    first = bench.train("runs", configure(FIRST, **SHORT))
    taken: list[int] = []
    within = adapt()
    results = bench.train_together("runs", [within], on_step=taken.append)
    folder = run_folder(bench.folder / "runs", within)
    assert (folder / "source" / PROMPTS).read_bytes() == (first / PROMPTS).read_bytes()
    other = adapt(source=str(first))
    given = bench.train("runs", other)
    assert (given / PROMPTS).read_bytes() == (folder / PROMPTS).read_bytes()
    assert given != folder and not (given / "source").exists()
    assert {*results[0]["files"]} - {*results_of(given)["files"]} == {"source/log.jsonl", f"source/{PROMPTS}"}
    assert taken == list(range(1, count_steps(opened, within) + 1))
    assert count_steps(opened, within) == count_steps(opened, other) + count_steps(opened, configure(FIRST, **SHORT))
    assert results[0]["parameters"] == 3 * 4 * load_file(first / PROMPTS)["context"].shape[2]
    assert learns_source(within) and not learns_source(other)


def test_several_runs_at_a_time_start_from_their_own(bench: RunBench) -> None:
    configs = [adapt(seed=seed, shots=shots) for seed, shots in ((1, 1), (2, 2))]
    bench.train_together("together", configs)
    for config in configs:
        alone = bench.train("alone", config)
        together = run_folder(bench.folder / "together", config)
        for name in (PROMPTS, f"source/{PROMPTS}"):
            found, wanted = load_file(together / name), load_file(alone / name)
            for key, value in wanted.items():
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [1, 3])  # what comes first, and the second of three tasks
def test_a_killed_run_goes_on_to_the_same_bytes(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, training: int
) -> None:
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)
    whole = bench.train("whole", adapt())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(training, patch)
        bench.train("killed", adapt())
    unfinished = run_folder(bench.folder / "killed", adapt())
    assert (unfinished / "source" / PROMPTS).exists() == (training > 1)
    with pytest.raises(UsageError, match="holds a run of another configuration .*text_memory"):
        bench.train("killed", adapt(text_memory=3.0))
    killed = bench.train("killed", adapt())
    for name in (PROMPTS, f"source/{PROMPTS}", "classifier.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.rglob("checkpoint.pt"))


def test_contexts_are_said_to_have_moved_from_the_source(bench: RunBench) -> None:
    first = bench.train("runs", configure(FIRST, **SHORT))
    start = load_file(first / PROMPTS)["context"][0]
    for config in (adapt(), adapt(source=str(first))):
        contexts = read_contexts(read_run(bench.train("runs", config)))
        assert [context.task for context in contexts] == list(DATASETS)
        for context in contexts:
            torch.testing.assert_close(context.start, start)
            assert any(context.moved)


def test_jointly_each_task_starts_there_too(bench: RunBench) -> None:
    first = bench.train("runs", configure(FIRST, **SHORT))
    folder = bench.train("runs", adapt(source=str(first), separate=False, lr=1e-12, warmup_lr=0.0))
    start, found = (load_file(each / PROMPTS)["context"] for each in (first, folder))
    torch.testing.assert_close(found, start.expand(3, -1, -1))


# What the source's name stands for


def test_a_source_that_changed_is_another_configuration(bench: RunBench) -> None:
    first = bench.train("runs", configure(FIRST, **SHORT))
    before = adapt(source=str(first))
    source = given_source(before)
    assert source is not None and source.folder == first
    assert pinned(before) == before, "what is pinned stays so"
    assert ("source", f"{first}@{source.digest}") in before.differences()
    stored = bench.train("runs", before)
    assert json.loads((stored / "config.json").read_text())["config"]["source"] == f"{first}@{source.digest}"
    (first / PROMPTS).write_bytes((bench.train("other", configure(FIRST, **SHORT, seed=2)) / PROMPTS).read_bytes())
    after = adapt(source=str(first))
    assert run_folder(bench.folder, before) != run_folder(bench.folder, after)
    assert read_run(stored).config == before, "it is read without its source"
    with pytest.raises(DataError, match="had learned when it was given as --source .* got something else there now"):
        bench.train("anew", before)
    assert not run_folder(bench.folder / "anew", before).exists()


def make_coop(bench: RunBench) -> Path:
    return bench.train("runs", configure("coop-ca", **SHORT, position="middle"))


def make_separate(bench: RunBench) -> Path:
    return bench.train("runs", configure(FIRST, **SHORT, separate=True))


def make_long(bench: RunBench) -> Path:
    return bench.train("runs", configure(FIRST, context_length=5))


def make_front(bench: RunBench) -> Path:
    return bench.train("runs", configure(FIRST, **SHORT, position="front"))


def make_foreign(bench: RunBench) -> Path:
    """As if of another backbone."""
    folder = bench.train("runs", configure(FIRST, **SHORT))
    facts = json.loads((folder / "config.json").read_text())
    for each in facts["caches"].values():
        each["weights_sha256"] = "0" * 64
    facts["config"]["backbone"] = "RN50"
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def make_damaged(bench: RunBench) -> Path:
    folder = bench.train("runs", configure(FIRST, **SHORT))
    (folder / PROMPTS).write_bytes((folder / PROMPTS).read_bytes()[:-1])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_coop, r"learned one context for all tasks, got contexts of shape \(3, 4, \d+\) at "),
        (make_separate, r"learned one context for all tasks, got \['coins/context', "),
        (make_long, "a context of 4 tokens, got 5 at .*: give --context-length"),
        (make_front, "with --position middle, got one with front at "),
        (make_foreign, "was learned with 'random:demo', got one of 'RN50', or of other weights, at "),
        (make_damaged, "wanted what the run learned in .*, got none or a damaged file"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    bench: RunBench, opened: list[FeatureCache], make: Callable[[RunBench], Path], message: str
) -> None:
    config = adapt(source=str(make(bench)))
    with pytest.raises((UsageError, DataError), match=message):
        bench.train("adapted", config)
    with pytest.raises((UsageError, DataError), match=message):
        learn_in_memory(config, bench.backbone, opened)


def test_a_folder_that_is_no_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wanted a finished run to start from at .*/nowhere', found no prompts"):
        adapt(source=str(tmp_path / "nowhere"))


def test_a_configuration_is_pinned_before_it_is_used(bench: RunBench, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pin it first"):
        bench.train("runs", configure(ADAPT, **SHORT, source=str(tmp_path)))


def test_without_a_folder_it_is_learned_in_memory(bench: RunBench, opened: list[FeatureCache]) -> None:
    learned = learn_in_memory(adapt(), bench.backbone, opened)
    filed = load_file(bench.train("runs", adapt()) / PROMPTS)
    assert learned.learnables.keys() == filed.keys()
    for name, value in learned.learnables.items():
        assert torch.equal(value.detach(), filed[name])
