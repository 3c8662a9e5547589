"""Tables and the plot from results made up here."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.reporting import (
    Table,
    draw_shots_plot,
    group_results,
    load_results,
    method_label,
    method_task_table,
    render_table,
    run_table,
    summarize,
    summary_table,
)
from cptlite.reporting.plots import spread


def made_up(score: float, **changes: Any) -> dict[str, Any]:
    """One run's results; its second task reports mean per-class recall."""
    tasks = {
        "leaf": {"acc1": score, "mean_per_class_recall": 0.1, "metric": "acc1", "rows": 40},
        "coin": {
            "acc1": 0.9,
            "mean_per_class_recall": score,
            "metric": "mean_per_class_recall",
            "rows": 60,
        },
    }
    result = {
        "method": "coop-mt",
        "variant": None,
        "suite": "mine",
        "backbone": "demo",
        "shots": 1,
        "seed": 1,
        "tasks": tasks,
        "suite_score": score,
        "parameters": 2048,
        "seconds": {"load": 0.5, "train": 1.5},
        "peak_mib": 100.0,
    }
    return result | changes


def softcpt(score: float, **changes: Any) -> dict[str, Any]:
    return made_up(score, method="softcpt", variant="nata", parameters=66048, **changes)


def several() -> list[dict[str, Any]]:
    return [
        made_up(0.30, method="zeroshot", shots=16, parameters=0),
        made_up(0.50, shots=4, seed=2),
        made_up(0.40, shots=4, seed=1),
        made_up(0.20, shots=1, seed=1),
        softcpt(0.60, shots=4, seed=1, seconds={"train": 300.0}),
        softcpt(0.80, shots=4, seed=2, seconds={"train": 100.0}),
    ]


def drawn(table: Table, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render_table(table))
    return stream.getvalue()


def test_method_label() -> None:
    assert method_label(made_up(0.5)) == "coop-mt"
    assert method_label(softcpt(0.5)) == "softcpt-nata"
    assert method_label(softcpt(0.5, recipe="paper")) == "softcpt-nata"
    assert method_label(softcpt(0.5, recipe="full")) == "softcpt-nata-full"


def test_summarize_takes_mean_and_sample_std_over_seeds() -> None:
    summaries = summarize(several())
    assert [(s.method, s.shots, s.seeds) for s in summaries] == [
        ("zeroshot", 0, (1,)),
        ("coop-mt", 1, (1,)),
        ("coop-mt", 4, (1, 2)),
        ("softcpt-nata", 4, (1, 2)),
    ]
    assert summaries[1].std == 0.0
    assert summaries[2].mean == pytest.approx(0.45)
    assert summaries[2].std == pytest.approx(np.std([0.4, 0.5], ddof=1))
    assert summaries[3].seconds == pytest.approx(200.0)
    assert summaries[3].parameters == 66048


def test_a_seed_that_comes_twice_is_refused_with_both_folders() -> None:
    twice = [made_up(0.1, folder="runs/a"), made_up(0.7, folder="runs/b")]
    for refuse in (summarize, summary_table, lambda results: method_task_table(results, 1)):
        with pytest.raises(DataError, match="coop-mt .* 1 shot and seed 1, in runs/a and in runs/b: leave one"):
            refuse(twice)


def test_zero_shot_counts_once_a_seed_whatever_shots_it_was_given() -> None:
    zeroshot = [made_up(0.3, method="zeroshot", shots=shots, seed=seed) for shots in (1, 4) for seed in (1, 2)]
    (summary,) = summarize(zeroshot)
    assert (summary.shots, summary.seeds, summary.mean) == (0, (1, 2), pytest.approx(0.3))
    with pytest.raises(DataError, match="zeroshot .* 4 shots and seed 2"):
        summarize([*zeroshot, zeroshot[-1] | {}])


def test_seconds_of_the_whole_run_win_over_their_parts() -> None:
    (summary,) = summarize([made_up(0.1, seconds={"train": 1.0, "total": 5.0})])
    assert summary.seconds == 5.0


def test_group_results_tells_suites_backbones_and_task_sets_apart() -> None:
    one = made_up(0.5)
    fewer = made_up(0.5, tasks={"leaf": one["tasks"]["leaf"]})
    other = made_up(0.5, tasks={"twig": one["tasks"]["leaf"]})
    results = [one, made_up(0.5, backbone="RN50"), made_up(0.4), fewer, other]
    groups = group_results(results)
    assert list(groups) == [
        "mine, 2 tasks, backbone demo",
        "mine, 2 tasks, backbone RN50",
        "mine, 1 task, backbone demo",
        "mine, 1 task, backbone demo (others)",
    ]
    assert sum(len(group) for group in groups.values()) == len(results)


def test_load_results_finds_finished_runs_at_any_depth(tmp_path: Path) -> None:
    for name, score in (("b/run", 0.5), ("a/deeper/run", 0.4)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(json.dumps(made_up(score)))
    (tmp_path / "unfinished").mkdir()
    assert [result["suite_score"] for result in load_results([tmp_path])] == [0.4, 0.5]
    assert len(load_results([tmp_path / "b/run/results.json"])) == 1


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_load_results_reads_a_file_once_and_says_where_it_lies(tmp_path: Path) -> None:
    file = write(tmp_path / "b/run/results.json", made_up(0.5))
    (result,) = load_results([tmp_path, tmp_path / "b", file])
    assert result["folder"] == str(tmp_path / "b/run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON .nested too deep"),
        ('{"seed": ' + "1" * 5000 + "}", "is not JSON"),
        ("[]", "lacks method"),
        ('{"method": "x"}', "lacks suite, shots"),
    ],
)
def test_load_results_names_a_foreign_file(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "results.json", text)
    with pytest.raises(DataError, match=rf"results\.json .*{message}"):
        load_results([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite_score": math.nan}, "suite_score from 0 to 1, got nan"),
        ({"suite_score": "0.5"}, "suite_score from 0 to 1, got '0.5'"),
        ({"suite_score": 1.01}, "suite_score from 0 to 1, got 1.01"),
        ({"method": None}, "a text as method"),
        ({"suite": ["mine"]}, "a text as suite"),
        ({"suite": None}, "a text as suite"),
        ({"variant": 3}, "a text as variant"),
        ({"shots": "4"}, "a whole number as shots"),
        ({"seed": True}, "a whole number as seed"),
        ({"seed": None}, "a whole number as seed"),
        ({"parameters": math.inf}, "a whole number as parameters"),
        ({"tasks": {}}, "the scores of a task, got none"),
        ({"tasks": None}, "a table as tasks"),
        ({"tasks": [0.5]}, "a table as tasks"),
        ({"tasks": {"leaf": 0.5}}, "a table with its metric for task 'leaf'"),
        ({"tasks": {"leaf": {"metric": "acc1", "acc1": math.nan}}}, "acc1 of task 'leaf' from 0 to 1, got nan"),
        ({"tasks": {"leaf": {"metric": "acc1"}}}, "acc1 of task 'leaf' from 0 to 1, got None"),
        ({"seconds": {"train": None}}, "seconds of train, got None"),
        ({"seconds": {"train": -1}}, "seconds of train, got -1"),
        ({"seconds": {"train": 10**400}}, "seconds of train, got 1000"),
        ({"seconds": {"train": 1e300}}, "seconds of train, got 1e+300"),
        ({"shots": 10**400}, "a whole number as shots, got 1000"),
        ({"config": "default"}, "a table as config"),
        ({"caches": {"leaf": 1}}, "a table for each of caches"),
    ],
)
def test_load_results_refuses_what_is_of_another_kind(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "results.json", made_up(0.5) | change)
    with pytest.raises(DataError, match=rf"results\.json holds no results of a run: wanted .*{re.escape(message)}"):
        load_results([tmp_path])


def test_load_results_of_nothing_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cptlite train"):
        load_results([tmp_path, tmp_path / "missing"])


def test_run_table_shows_the_metric_each_task_reports() -> None:
    table = run_table(softcpt(0.632, shots=4))
    assert table.title == "softcpt-nata, mine, 4 shots, seed 1 (%)"
    assert table.rows == (
        ("leaf", "63.2", "63.2", "10.0", "40"),
        ("coin", "63.2", "90.0", "63.2", "60"),
        ("suite score", "63.2", "", "", "100"),
    )
    assert "66,048" in table.caption
    assert "2.00 s" in table.caption


def test_summary_table() -> None:
    table = summary_table(several(), title="Mine")
    assert table.title == "Mine (%)"
    assert table.columns == ("method", "no shots", "1 shot", "4 shots", "learned", "time")
    assert table.rows == (
        ("zeroshot", "30.0", "", "", "0", "2.00 s"),
        ("coop-mt", "", "20.0", "45.0 ± 7.1", "2,048", "2.00 s"),
        ("softcpt-nata", "", "", "70.0 ± 14.1", "66,048", "3 min 20 s"),
    )
    assert table.best == {(2, 3)}, "only where a method has a rival"
    assert "1 to 2 seeds" in table.caption


def test_method_task_table() -> None:
    table = method_task_table(several(), 4)
    assert table.columns == ("task", "zeroshot", "coop-mt", "softcpt-nata")
    assert table.rows == (("leaf", "30.0", "45.0", "70.0"), ("coin", "30.0", "45.0", "70.0"))
    assert table.best == {(0, 3), (1, 3)}


def test_equal_figures_are_not_stressed() -> None:
    assert summary_table([made_up(0.5), softcpt(0.5)]).best == frozenset()


def test_render_table_prints_every_word() -> None:
    words = drawn(summary_table(several(), title="Mine [not markup]"))
    assert "Mine [not markup] (%)" in words
    assert "70.0 ± 14.1" in words
    narrow = drawn(method_task_table(several(), 4), width=30)
    assert "…" not in narrow, "a narrow terminal folds words and loses none"


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_draw_shots_plot(tmp_path: Path) -> None:
    path = tmp_path / "new" / "shots.png"
    assert draw_shots_plot(several(), path) == path
    assert is_png(path)


@pytest.mark.parametrize("kept", [slice(0, 1), slice(3, 4), slice(1, 4)])
def test_draw_shots_plot_of_little(tmp_path: Path, kept: slice) -> None:
    assert is_png(draw_shots_plot(several()[kept], tmp_path / "shots.png", title="little"))


def test_words_of_files_in_a_plot_and_a_table_are_words(tmp_path: Path) -> None:
    results = [made_up(0.5) | {"suite": "$\\no {formula$\x1b[31m", "method": "$\\neither$\x07"}]
    (title,) = group_results(results)
    assert is_png(draw_shots_plot(results, tmp_path / "shots.png", title))
    screen = io.StringIO()
    Console(file=screen, width=200).print(render_table(summary_table(results, title)))
    assert "\\x1b[31m" in screen.getvalue() and "\\x07" in screen.getvalue()
    assert all(line.isprintable() for line in screen.getvalue().splitlines())


def test_draw_shots_plot_of_more_methods_than_colours(tmp_path: Path) -> None:
    results = [made_up(0.4 + 0.01 * i, method=f"m{i}", shots=s) for i in range(11) for s in (1, 2, 4)]
    assert is_png(draw_shots_plot(results, tmp_path / "shots.png"))


@pytest.mark.parametrize("results", [[], [made_up(0.5), made_up(0.5, suite="yours")]])
def test_draw_shots_plot_wants_one_group(tmp_path: Path, results: list[Any]) -> None:
    with pytest.raises(UsageError, match="one suite and backbone, got"):
        draw_shots_plot(results, tmp_path / "shots.png")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CptliteError, match=r"pip install 'cptlite\[plot\]'"):
        draw_shots_plot(several(), tmp_path / "shots.png")


@given(st.lists(st.floats(0, 1), max_size=12).map(sorted), st.floats(0.01, 0.2))
def test_spread_keeps_order_gap_and_centre(wanted: list[float], gap: float) -> None:
    moved = spread(wanted, gap)
    assert len(moved) == len(wanted)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(moved))
    assert math.isclose(sum(moved), sum(wanted), abs_tol=1e-6)


def test_spread_leaves_what_is_far_apart() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
