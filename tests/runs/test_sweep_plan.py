"""What flags and files say of a sweep, and the runs that come of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from run_bench import BACKBONE, DATASETS

from cptlite.config import RunConfig, resolve_config
from cptlite.errors import UsageError
from cptlite.runs.sweep_plan import SweepPlan, expand, plan_file, read_plan
from cptlite.runs.sweep_run import train_words
from cptlite.shots import ALL_SHOTS

ON = [("shelf", tuple(DATASETS))]


def configs_of(**table: Any) -> list[RunConfig]:
    return expand(SweepPlan.from_table(table), ON, BACKBONE)


def test_every_combination_once_and_what_looks_at_no_rows_once_in_all() -> None:
    configs = configs_of(
        methods=["zeroshot", "linear-probe", "coop-mt"], shots="1,4", seeds="1-3", set={"lr": ["0.1", "0.2"]}
    )
    assert len(configs) == len(set(configs)) == 1 + 2 * 3 + 2 * 2 * 3
    (zero_shot,) = (config for config in configs if config.method == "zeroshot")
    assert (zero_shot.shots, zero_shot.seed) == (1, 1)
    stepped = {(config.recipe.lr, config.shots, config.seed) for config in configs if config.recipe}
    assert stepped == {(lr, shots, seed) for lr in (0.1, 0.2) for shots in (1, 4) for seed in (1, 2, 3)}
    assert configs[0].shots == 4  # the longest first


def test_options_reach_the_methods_that_have_them() -> None:
    settings = {"strength": [1, 2.5], "separate": "yes", "C": "0.5", "recipe": "full"}
    configs = configs_of(methods="kgcoop,linear-probe", shots=1, seeds=1, set=settings)
    assert [config.options.C for config in configs if config.method == "linear-probe"] == [0.5]
    assert {config.options.strength for config in configs if config.method == "kgcoop"} == {1.0, 2.5}
    assert all(config.separate and config.recipe_name == "full" for config in configs if config.method == "kgcoop")


def test_a_plan_is_written_so_that_the_same_is_read(tmp_path: Path) -> None:
    settings = {"context-init": ['a "photo" of\x07', "b\\u0041"], "held-out-task": "coins+leaves", "lr": [1e-5, 2]}
    plan = SweepPlan.from_table(
        {"methods": "coop-mt,softcpt", "shots": [4, "all"], "seeds": [3, "5-6"], "suites": "plant6", "set": settings}
    )
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert SweepPlan.from_table(read_plan(path)) == plan
    assert plan.shots == (4, ALL_SHOTS) and plan.seeds == (3, 5, 6)
    assert dict(plan.settings)["held_out_tasks"] == (("coins", "leaves"),)
    other = SweepPlan.from_table({"methods": "coop-mt"})
    assert plan_file(plan, tmp_path) != plan_file(other, tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "wanted methods, got none"),
        ({"methods": "coop"}, "unknown method 'coop'"),
        ({"methods": []}, "wanted methods, got none"),
        ({"methods": ["coop-mt"], "shot": 1}, "has no 'shot': did you mean 'shots'"),
        ({"methods": "coop-mt", "seeds": "3-1"}, "a range goes up"),
        ({"methods": "coop-mt", "seeds": "1-999999999999"}, "at most 1000"),
        ({"methods": "coop-mt", "seeds": "one"}, "wanted whole numbers, such as 1,2,4 or 1-3, got 'one'"),
        ({"methods": "coop-mt", "shots": 0}, "shots"),
        ({"methods": "coop-mt", "shots": "every"}, "such as 1,2,4 or 1-3 or all, got 'every'"),
        ({"methods": "coop-mt", "seeds": "all"}, "such as 1,2,4 or 1-3, got 'all'"),
        ({"methods": "coop-mt", "shots": True}, "wanted whole numbers"),
        ({"methods": "coop-mt", "shots": []}, "wanted whole numbers"),
        ({"methods": "coop-mt", "backbone": 3}, "backbone must be a text"),
        ({"methods": "coop-mt", "datasets": [3]}, "datasets must be a text"),
        ({"methods": "coop-mt", "suites": "a,b", "datasets": "c"}, "got both: give one"),
        ({"methods": "coop-mt", "set": 3}, "must be a table of options"),
        ({"methods": "coop-mt", "set": {"lr": "fast"}}, "lr must be"),
        ({"methods": "coop-mt", "set": {"lr": []}}, "wanted values, got none"),
        ({"methods": "coop-mt", "set": {"strength": 1}}, "no method of this sweep has an option 'strength'"),
        ({"methods": "coop-mt", "set": {"seed": 1}}, "has a flag of its own"),
        ({"methods": "coop-mt", "set": {"text-path": ["fused", "plain"]}}, "give one"),
        ({"methods": "coop-mt", "seeds": "1-900", "shots": "1-900"}, "at most 20,000 runs"),
    ],
)
def test_what_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        expand(SweepPlan.from_table(table), ON, BACKBONE)


@pytest.mark.parametrize("content", [b"methods = [", b"\xff\xfe\xff", b"a = " + b"[" * 9999])
def test_a_file_that_is_no_plan(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="wanted a TOML file"):
        read_plan(path)
    with pytest.raises(UsageError, match="check the path"):
        read_plan(tmp_path / "none.toml")


def test_a_run_is_told_in_the_words_of_train() -> None:
    given = {"method": "softcpt", "variant": "cata", "recipe": "full", "lr": 0.5, "held_out_tasks": ("coins",)}
    config = resolve_config(
        {**given, "suite": "shelf", "datasets": ("coins", "leaves"), "backbone": BACKBONE, "shots": 2}
    )
    words = train_words(config)
    assert words[:4] == ["--method", "softcpt", "--dataset=coins", "--dataset=leaves"]
    assert {"--variant=cata", "--recipe=full", "--lr=0.5", "--held-out-task=coins", "--shots=2"} < set(words)
    assert len(words) == 2 + 2 + 4 + 4
