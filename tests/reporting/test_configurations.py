"""Runs that were configured otherwise never meet in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_bench import BACKBONE, encode_datasets
from typer.testing import CliRunner

from cptlite.backbones import load_backbone
from cptlite.cli import app
from cptlite.config import SAME_NUMBERS, resolve_config
from cptlite.errors import DataError
from cptlite.reporting import draw_shots_plot, load_results, method_task_table, summarize, summary_table
from cptlite.reporting.configurations import configuration, configuration_key, say_differences

FINGERPRINT = {"dataset": "leaf", "backbone": "demo", "views": 1, "weights_sha256": "ab"}


def run(
    score: float = 0.5, *, method: str = "coop-mt", seed: int = 1, views: int = 1, **options: Any
) -> dict[str, Any]:
    """Results of a run over two datasets, as `execute_runs` writes them."""
    named = {"method": method, "suite": "leaf+coin", "datasets": ["leaf", "coin"], "backbone": "demo"}
    config = resolve_config({**named, "shots": 4, "seed": seed, **options})
    scores = {"acc1": score, "mean_per_class_recall": score, "metric": "acc1", "rows": 10}
    caches = {name: FINGERPRINT | {"dataset": name, "views": views} for name in named["datasets"]}
    return {
        **{key: getattr(config, key) for key in ("method", "suite", "backbone", "shots", "seed", "variant")},
        "recipe": config.recipe_name,
        "config": json.loads(json.dumps(config.to_json())),
        "caches": caches,
        "tasks": {"leaf": scores, "coin": scores},
        "suite_score": score,
        "parameters": 8,
        "seconds": {"train": 1.0},
    }


def rows(*results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Words of a summary table that say whose row it is, and scores."""
    return [row[:-2] for row in summary_table(results).rows]


def test_two_rates_are_two_rows_with_what_differs() -> None:
    results = [run(0.394, lr=0.5, context_length=4), run(0.544, seed=2)]
    table = summary_table(results)
    assert table.columns == ("method", "differs", "4 shots", "learned", "time")
    assert rows(*results) == [
        ("coop-mt", "lr 0.5, context-length 4", "39.4"),
        ("coop-mt", "lr 0.002, context-length 16", "54.4"),
    ]
    assert table.best == {(1, 2)} and table.words == (0, 1)
    assert [each.seeds for each in summarize(results)] == [(1,), (2,)]
    tasks = method_task_table(results, 4)
    assert tasks.columns == ("task", "coop-mt (lr 0.5, context-length 4)", "coop-mt (lr 0.002, context-length 16)")
    assert tasks.rows[0] == ("leaf", "39.4", "54.4")


def test_seeds_of_one_configuration_are_averaged_whatever_moves_no_number() -> None:
    others = {"device": "cpu", "text_path": "plain", "text_memory": 1, "cuda_graphs": False, "linear_backend": "torch"}
    results = [run(0.4), run(0.6, seed=2, **others)]
    assert {name for name in SAME_NUMBERS if results[0]["config"][name] == results[1]["config"][name]} == set()
    assert rows(*results) == [("coop-mt", "50.0 ± 14.1")]
    assert "differs" not in summary_table(results).columns


def test_what_is_no_default_is_said_of_a_row_alone_too() -> None:
    assert rows(run(lr=0.5)) == [("coop-mt", "lr 0.5", "50.0")]
    assert rows(run(), run(0.6, method="softcpt", separate=True)) == [
        ("coop-mt", "", "50.0"),
        ("softcpt-nata", "separate yes", "60.0"),
    ]


def test_variant_and_recipe_are_in_the_label_and_not_said_again() -> None:
    results = [
        run(method="softcpt"),
        run(0.6, method="softcpt", recipe="full"),
        run(0.7, method="softcpt", variant="cata"),
    ]
    assert rows(*results) == [("softcpt-nata", "50.0"), ("softcpt-nata-full", "60.0"), ("softcpt-cata", "70.0")]


def test_runs_on_other_features_do_not_meet() -> None:
    results = [run(0.4), run(0.6, seed=2, views=10)]
    assert rows(*results) == [("coop-mt", "cached-views 1", "40.0"), ("coop-mt", "cached-views 10", "60.0")]
    results[1]["caches"]["coin"]["views"] = 1
    assert [row[1] for row in rows(*results)] == ["cached-views 1", "cached-views [10, 1]"]


def test_the_order_of_the_datasets_is_a_configuration() -> None:
    assert [row[1] for row in rows(run(0.4), run(0.6, seed=2, datasets=["coin", "leaf"]))] == [
        "datasets leaf + coin",
        "datasets coin + leaf",
    ]


def test_words_stay_short_and_tell_apart() -> None:
    templates = [
        ("a {}.",),
        ("a {}.", "b {}."),
        (*["a photo of a {}."] * 9, "b {}."),
        (*["a photo of a {}."] * 9, "c {}."),
    ]
    said = say_differences([configuration(run(method="zeroshot", templates=each)) for each in templates])
    assert said[:2] == ['templates ["a {}."]', 'templates "a {}." + "b {}."']
    assert len(set(said)) == 4 and max(map(len, said)) < 60
    contexts = ["", "none", "yes", "4", "a b", "leaf"]
    said = say_differences([configuration(run(context_init=each)) for each in contexts])
    assert said == [f"context-init {word}" for word in ('""', '"none"', '"yes"', '"4"', '"a b"', "leaf")]


VALUES = st.sampled_from(
    (True, False, None, 0, 1, 1.0, 0.5, "", "none", "yes", "a", "a + b", "0.5", ["a", "b"], ["a + b"], [])
)


@given(st.lists(st.dictionaries(st.sampled_from(("x", "y", "z")), VALUES, min_size=1), min_size=2, max_size=6))
def test_configurations_that_are_told_apart_are_said_apart(told: list[dict[str, Any]]) -> None:
    distinct = list({configuration_key(each): each for each in told}.values())
    # What two options may be is of one kind; here 1 and 1.0 stand for a file that was written by hand.
    assert len(set(say_differences(distinct))) == len(distinct)


def test_an_option_that_one_run_did_not_know_keeps_it_apart() -> None:
    old = run(0.4)
    del old["config"]["class_fraction"]
    assert [row[1] for row in rows(old, run(0.6, seed=2))] == ["class-fraction not recorded", "class-fraction 1.0"]


def test_a_method_that_is_no_longer_known_is_reported() -> None:
    old = run(0.4) | {"method": "coop-old"}
    old["config"]["method"] = "coop-old"
    other = old | {"config": old["config"] | {"lr": 0.5}, "seed": 2, "suite_score": 0.5}
    assert [row[:2] for row in rows(old, other)] == [("coop-old", "lr 0.002"), ("coop-old", "lr 0.5")]
    for strange in ([], {}, None, 3):
        assert len(rows(old, other | {"config": other["config"] | {"method": strange, "recipe": strange}})) == 2


def test_runs_that_recorded_no_configuration_are_together_and_beside_the_others() -> None:
    old = [
        {key: value for key, value in run(0.2, seed=seed).items() if key not in ("config", "caches")} for seed in (1, 2)
    ]
    assert rows(*old) == [("coop-mt", "20.0 ± 0.0")]
    assert rows(*old, run(0.4), run(0.6, lr=0.5)) == [
        ("coop-mt", "configuration not recorded", "20.0 ± 0.0"),
        ("coop-mt", "lr 0.002", "40.0"),
        ("coop-mt", "lr 0.5", "60.0"),
    ]


def store(folder: Path, result: dict[str, Any], *, beside: bool = False, recorded: bool = True) -> None:
    """Write a run's results; without configuration, or with it in ``config.json`` alone as earlier versions did."""
    folder.mkdir(parents=True)
    own = {key: value for key, value in result.items() if recorded or key not in ("config", "caches")}
    (folder / "results.json").write_text(json.dumps(own))
    if beside:
        (folder / "config.json").write_text(json.dumps({key: result[key] for key in ("config", "caches")}))


def test_old_results_take_their_configuration_from_beside(tmp_path: Path) -> None:
    store(tmp_path / "a", run(0.4), beside=True, recorded=False)
    store(tmp_path / "b", run(0.6, seed=2))
    store(tmp_path / "c", run(0.8, seed=3, lr=0.5), beside=True, recorded=False)
    assert rows(*map(dict, load_results([tmp_path]))) == [
        ("coop-mt", "lr 0.002", "50.0 ± 14.1"),
        ("coop-mt", "lr 0.5", "80.0"),
    ]
    for damage, message in (("{", "is not JSON"), ("{}", "lacks config"), ('{"config": 1}', "lacks config")):
        (tmp_path / "c/config.json").write_text(damage)
        with pytest.raises(DataError, match=rf"config\.json .*{message}"):
            load_results([tmp_path])


def test_a_plot_has_a_line_per_configuration(tmp_path: Path) -> None:
    results = [run(0.4, templates=("a {}.",), method="zeroshot"), run(0.5, method="zeroshot"), run(lr=0.5), run(seed=2)]
    plot = draw_shots_plot(results, tmp_path / "shots.png")
    assert plot.read_bytes() != draw_shots_plot(results[:3], tmp_path / "three.png").read_bytes()


# The command line


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def report(folder: Path) -> list[dict[str, Any]]:
    done = call("report", folder, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["results"]


@pytest.mark.slow
def test_trained_runs_of_two_configurations_are_two_rows(tmp_path: Path) -> None:
    caches = encode_datasets(load_backbone(BACKBONE, device="cpu"), tmp_path)
    out = tmp_path / "runs"
    train = ("train", "--method", "coop-mt", "--cache-dir", caches, "--out", out, "--shots", 2, "--epochs", 1)
    for words in (
        ("--lr", 0.5, "--context-length", 4, "--seed", 1),
        ("--lr", 0.002, "--context-length", 16, "--seed", 2),
    ):
        done = call(*train, *words)
        assert done.exit_code == 0, done.stderr
    suite = out / "coins+leaves+shells"
    assert sorted(path.name for path in suite.iterdir()) == ["coop-mt-epochs1", "coop-mt-epochs1-lr0.5-context_length4"]
    lines = report(out)
    assert len({line["group"] for line in lines}) == 1
    assert sorted((line["differs"], line["seeds"]) for line in lines) == [
        ("epochs 1, lr 0.002, context-length 16", [2]),
        ("epochs 1, lr 0.5, context-length 4", [1]),
    ]
    assert sorted((line["config"]["lr"], line["config"]["context_length"]) for line in lines) == [(0.002, 16), (0.5, 4)]
    assert "seed" not in lines[0]["config"] and lines[0]["config"]["cached_views"] == 1
    assert call(*train, "--seed", 1, "--seed", 2).exit_code == 0
    assert sorted(line["seeds"] for line in report(out)) == [[1], [1, 2]]
    printed = call("report", out, "--out", tmp_path / "plots").stdout
    assert "lr 0.5, context-length 4" in " ".join(printed.split()) and "over 1 to 2 seeds" in printed


def test_one_seed_in_two_folders_is_a_message_with_both(tmp_path: Path) -> None:
    store(tmp_path / "a", run(0.4))
    store(tmp_path / "b", run(0.6))
    for words in ((), ("--json",), ("--tasks",), ("--out", tmp_path / "plots")):
        done = call("report", tmp_path, *words)
        assert done.exit_code == 3
        assert f"in {tmp_path / 'a'} and in {tmp_path / 'b'}: leave one of them out" in done.stderr


def test_a_note_names_what_recorded_no_configuration(tmp_path: Path) -> None:
    store(tmp_path / "a", run(0.4), recorded=False)
    store(tmp_path / "b", run(0.6, seed=2), recorded=False, beside=True)
    done = call("report", tmp_path)
    assert done.exit_code == 0
    assert "no configuration recorded" in done.stderr and str(tmp_path / "a") in done.stderr
    assert str(tmp_path / "b") not in done.stderr
    assert "configuration not recorded" in done.stdout
