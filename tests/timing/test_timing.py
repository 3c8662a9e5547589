"""What ``cptlite bench`` measures: sizes, ways that agree, and the form of its account. No seconds are asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cptlite.backbones import Backbone, load_backbone
from cptlite.errors import DataError, UsageError
from cptlite.text.layout import layout_prompts
from cptlite.text.plan import count_rows
from cptlite.timing import STAGES, BenchPlan, bench_tables, draw_bench_plot, run_bench
from cptlite.timing.cache import bench_cache
from cptlite.timing.clock import MatmulClock, Patience, Samples, median_seconds, peak_mib
from cptlite.timing.pictures import draw_photos
from cptlite.timing.sizes import GENERAL10, SUITES, suite_names
from cptlite.timing.text import bench_text, linear_weights
from cptlite.timing.train import TrainSizes, bench_train

CPU = torch.device("cpu")
ONCE = Patience(repeats=1, seconds=1.0)
FEW = {"small": {"one": ["dog", "red panda", "dog house"], "two": ["dog", "A340-200"]}}
WAYS = ("original", "trimmed", "fused")
KEYS = {
    "text": "suite way rows forward_s step_s peak_mib speedup rate_vs_matmul max_rel_diff repeats",
    "train": "suite way runs step_s text_s steps_timed steps_per_epoch epoch_s speedup",
    "cache": "way workers images images_per_s of_bound repeats",
    "probe": "suite threads rows dim seconds speedup",
}


def ignore(words: str) -> None:
    pass


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture
def clock(backbone: Backbone) -> MatmulClock:
    return MatmulClock(rows=64, width=backbone.text_tower.width, dtype=torch.float32, device=CPU, seconds=0.001)


@pytest.mark.parametrize("suite", SUITES)
def test_made_up_names_have_the_statistics_they_are_to_have(backbone: Backbone, suite: str) -> None:
    tasks = suite_names(suite, backbone.tokenizer)
    assert tasks == suite_names(suite, backbone.tokenizer)
    for task, size in SUITES[suite].items():
        names = tasks[task]
        assert len(set(names)) == len(names) == size.classes
        layout = layout_prompts(names, backbone.tokenizer, context_length=0)
        assert layout.eos_positions.sum() == size.tokens
        assert layout.eos_positions.max() == size.longest
        assert count_rows(layout) == size.rows + 1  # SOS


def test_suites_have_the_published_numbers_of_classes_and_rows(backbone: Backbone) -> None:
    classes = {suite: sum(size.classes for size in sizes.values()) for suite, sizes in SUITES.items()}
    assert classes == {"general10": 1191, "plant6": 116, "fashion20": 78}
    tasks = suite_names("general10", backbone.tokenizer).values()
    owners = [index for index, names in enumerate(tasks) for _ in names]
    names = [name for names in tasks for name in names]
    rows = count_rows(layout_prompts(names, backbone.tokenizer, context_length=16, contexts=owners))
    assert abs(rows - 5311) < 0.01 * 5311


def test_given_names_are_taken_for_suites_they_cover(backbone: Backbone) -> None:
    given = {task: ["a", "b"] for task in GENERAL10} | {"another": ["c"]}
    assert suite_names("general10", backbone.tokenizer, given) == {task: ["a", "b"] for task in GENERAL10}
    assert suite_names("plant6", backbone.tokenizer, given) == suite_names("plant6", backbone.tokenizer)
    with pytest.raises(UsageError, match="unknown suite 'general11'"):
        suite_names("general11", backbone.tokenizer)


def test_text_ways_agree(backbone: Backbone, clock: MatmulClock) -> None:
    figures = list(bench_text(backbone, backbone, FEW, clock, ONCE, ignore))
    assert tuple(row["way"] for row in figures) == WAYS
    original, trimmed, fused = figures
    assert original["rows"] == 5 * 77
    assert original["rows"] > trimmed["rows"] > fused["rows"]
    assert original["max_rel_diff"] == 0
    assert 0 < trimmed["max_rel_diff"] < 1e-5
    assert 0 < fused["max_rel_diff"] < 1e-5
    assert original["peak_mib"] > trimmed["peak_mib"] > fused["peak_mib"] > 0


def test_a_step_on_some_classes_is_timed_beside_the_others(backbone: Backbone, clock: MatmulClock) -> None:
    many = {"many": {task: [f"{task} {word}" for word in "abcdefghijklmnopqrstuvwxyz"] for task in ("red", "blue")}}
    figures = list(bench_text(backbone, backbone, many, clock, ONCE, ignore, class_fraction=0.1))
    assert tuple(row["way"] for row in figures) == (*WAYS, "subsampled")
    *_, fused, subsampled = figures
    assert subsampled.keys() == fused.keys()
    assert 0 < subsampled["rows"] < fused["rows"]
    assert 0 < subsampled["max_rel_diff"] < 1e-5
    assert subsampled["peak_mib"] > 0


def test_linear_weights_are_those_of_the_transformer() -> None:
    assert linear_weights(load_backbone("random:demo", device="cpu").text_tower) == 4 * 12 * 128**2


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            torch.zeros(2**18) + 1  # two MiB at a time

    mib, seconds = peak_mib(work, CPU)
    assert 2 <= mib < 2.1
    assert seconds > 0


def test_repeats_end_by_number_or_by_time() -> None:
    calls: list[int] = []
    median_seconds(lambda: calls.append(1), CPU, Patience(repeats=4, seconds=60))
    assert len(calls) == 5  # one to warm up
    median_seconds(lambda: calls.append(1), CPU, Patience(repeats=4, seconds=0.0), warm_up=False)
    assert len(calls) == 6
    assert not Samples([0.5, 0.6]).wants_more(Patience(repeats=9, seconds=1.0))


def test_a_slow_first_run_is_timed_and_not_repeated(backbone: Backbone, clock: MatmulClock) -> None:
    figures = list(bench_text(backbone, backbone, FEW, clock, Patience(repeats=3, seconds=1e-9), ignore))
    assert [row["repeats"] for row in figures] == [1, 1, 1]


@pytest.mark.slow
def test_training_ways(backbone: Backbone) -> None:
    rows = list(bench_train(backbone, backbone, FEW, TrainSizes(runs=2), ONCE, ignore))
    assert [row["way"] for row in rows] == ["cache", "together", "images", "original"]
    assert [row["runs"] for row in rows] == [1, 2, 1, 1]
    assert [row["way"] for row in rows if row["text_s"]] == ["cache"]
    assert all(row["steps_per_epoch"] == 2 and row["epoch_s"] == 2 * row["step_s"] / row["runs"] for row in rows)
    assert all(row["speedup"] == rows[-1]["epoch_s"] / row["epoch_s"] for row in rows)


@pytest.mark.slow
def test_whole_trainings(backbone: Backbone) -> None:
    rows = list(bench_train(backbone, backbone, FEW, TrainSizes(runs=2, epochs=3), ONCE, ignore))
    assert [row["way"] for row in rows] == ["cache", "together"]
    assert all(row["steps_timed"] == 6 and row["speedup"] is None for row in rows)


@pytest.mark.slow
def test_the_full_recipe_is_timed_whole(backbone: Backbone) -> None:
    (row,) = bench_train(backbone, backbone, FEW, TrainSizes(runs=1, shots=1, recipe="full"), ONCE, ignore)
    assert (row["way"], row["steps_per_epoch"], row["steps_timed"]) == ("cache", 1, 75)


def test_caching_pass_and_its_bound(backbone: Backbone) -> None:
    rows = list(bench_cache(backbone, 3, ONCE, ignore))
    assert [row["way"] for row in rows] == ["encoder"] + ["pass"] * (len(rows) - 1)
    assert [row["workers"] for row in rows][:3] == [None, 0, 1]
    assert rows[0]["of_bound"] == 1


def test_photos_are_the_same_files_every_time(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        dataset = draw_photos(tmp_path / name, 2)
        assert len(dataset.splits["train"]) == 2
    first, again = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "ab")
    assert first == again
    assert first[0] != first[1]


@pytest.mark.slow
def test_account_has_every_figure_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.timing.bench.suite_names", lambda *_: FEW["small"])
    said: list[str] = []
    plan = BenchPlan(suites=("small",), backbone="random:demo", device="cpu", repeats=1, seconds=1.0, shots=2, images=2)
    result = json.loads(json.dumps(run_bench(plan, said.append)))
    assert result["matmul_gflops"] > 0
    assert {"torch", "processor", "cores", "commit"} <= result["machine"].keys()
    for stage in STAGES:
        assert result[stage]
        assert all(set(row) == set(KEYS[stage].split()) for row in result[stage])
        assert any(words.startswith(f"{stage}: ") for words in said)
    tables = bench_tables(result)
    assert len(tables) == len(STAGES)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    path = draw_bench_plot(result, tmp_path / "new" / "bench.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_plan_says_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="cannot time texts: give text, train, cache, probe"):
        BenchPlan(stages=("texts",))
    with pytest.raises(UsageError, match="repeats must be positive, got 0"):
        BenchPlan(repeats=0)
    with pytest.raises(UsageError, match="runs must be positive, got 0"):
        BenchPlan(runs=0)
    with pytest.raises(UsageError, match="class-fraction must be above 0 and at most 1, got 0"):
        BenchPlan(class_fraction=0)
    with pytest.raises(UsageError, match="cannot time recipe 'fast': give paper or full"):
        BenchPlan(recipe="fast")
    with pytest.raises(UsageError, match="epochs must be 0 .* got -1"):
        BenchPlan(epochs=-1)
    with pytest.raises(UsageError, match="nothing|none"):
        draw_bench_plot({stage: [] for stage in STAGES}, Path("never.png"))


@pytest.mark.parametrize("content", ["", "[]", '{"task": "name"}', '{"task": []}'])
def test_class_files_are_checked(tmp_path: Path, content: str) -> None:
    from cptlite.cli.bench import _read_classes

    with pytest.raises(DataError, match="--classes"):
        _read_classes(tmp_path / "missing.json")
    path = tmp_path / "classes.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="--classes"):
        _read_classes(path)


@pytest.mark.slow
def test_command_writes_json_and_picture(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    options = ["--suite", "fashion20", "--backbone", "random:demo", "--device", "cpu", "--repeats", "1", *files]
    done = subprocess.run(
        [sys.executable, "-m", "cptlite", "bench", "text", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "fused" in done.stdout
    assert "USDT" not in done.stderr
    result = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert [row["way"] for row in result["text"]] == list(WAYS)
    assert result["probe"] == []
    assert (tmp_path / "b.png").stat().st_size > 5000


@pytest.mark.gpu
def test_ways_agree_on_the_gpu() -> None:
    plan = BenchPlan(stages=("text",), backbone="random:demo", device="cuda", precision="float32", repeats=2)
    assert all(row["max_rel_diff"] < 1e-3 and row["peak_mib"] > 0 for row in run_bench(plan)["text"])
