"""Configurations check themselves and survive JSON."""

from __future__ import annotations

import json

import pytest

from cptlite.config import RECIPES, TrainConfig
from cptlite.errors import UsageError
from cptlite.methods.table import resolve_config

GIVEN = {"method": "softcpt", "suite": "s", "datasets": ("a", "b"), "backbone": "demo"}


def test_json_round_trip() -> None:
    config = TrainConfig(**GIVEN, shots=4, variant="nats")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_key_is_an_error() -> None:
    with pytest.raises(UsageError, match="unknown configuration key 'shot'"):
        TrainConfig.from_json({**GIVEN, "shot": 4})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shots", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", -1),
    ],
)
def test_wrong_values(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field.replace("_", "-")):
        TrainConfig(**GIVEN, **{field: value})


def test_templates_survive_json_as_a_tuple() -> None:
    config = TrainConfig(**GIVEN, templates=("a {}.", "{}, sketched"))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert TrainConfig.from_json(GIVEN).templates == ()


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "a {0}", "a {name}", "a {} in {", "}{}"])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    with pytest.raises(UsageError, match="one {} for the class name"):
        TrainConfig(**GIVEN, templates=("a {}.", template))


@pytest.mark.parametrize("suite", ["", "..", "/tmp/elsewhere", "a/b", "a\\b"])
def test_a_suite_stays_below_the_runs(suite: str) -> None:
    with pytest.raises(UsageError, match="plain folder name"):
        TrainConfig(**{**GIVEN, "suite": suite})


def test_a_recipe_completes_what_is_not_given() -> None:
    paper, fast = (resolve_config({**GIVEN, "recipe": name}) for name in ("paper", "fast"))
    assert (paper.batch_size, paper.lr) == (32, 0.002)
    assert {name: getattr(fast, name) for name in RECIPES["fast"]} == RECIPES["fast"]
    assert resolve_config({**GIVEN, "recipe": "fast", "batch_size": 7}).batch_size == 7
    assert resolve_config({**GIVEN, "method": "kgcoop", "recipe": "fast"}).context_init == "a photo of a"
    probe = {**GIVEN, "method": "linear-probe"}
    assert resolve_config({**probe, "recipe": "fast"}) == resolve_config(probe)
    with pytest.raises(UsageError, match="unknown recipe 'slow'"):
        resolve_config({**probe, "recipe": "slow"})
    with pytest.raises(UsageError, match="unknown optimizer 'adam': give one of sgd, adamw"):
        resolve_config({**GIVEN, "optimizer": "adam"})
    with pytest.raises(UsageError, match="unknown recipe 'slow': give one of paper, fast"):
        resolve_config({**GIVEN, "recipe": "slow"})
