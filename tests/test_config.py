"""Configurations check themselves, take the method's own options, and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cptlite.config import RunConfig, check_names, differ_in_rows_alone, known_options, resolve_config, share_options
from cptlite.errors import UsageError
from cptlite.methods.table import METHODS
from cptlite.shots import ALL_SHOTS
from cptlite.training.recipe import RECIPES, Recipe

GIVEN = {"method": "softcpt", "suite": "s", "datasets": ("a", "b"), "backbone": "demo"}
STEPPED = [name for name, entry in METHODS.items() if entry.stepped]


def resolve(method: str = "softcpt", **given: Any) -> RunConfig:
    return resolve_config({**GIVEN, "method": method, **given})


def recipe_of(method: str = "softcpt", **given: Any) -> Recipe:
    recipe = resolve(method, **given).recipe
    assert recipe is not None
    return recipe


def options(method: str, **given: Any) -> dict[str, Any]:
    """The method's own options, resolved."""
    return vars(resolve(method, **given).options)


@pytest.mark.parametrize("method", METHODS)
def test_json_round_trip(method: str) -> None:
    config = resolve(method, shots=4, seed=2)
    flat = json.loads(json.dumps(config.to_json()))
    assert resolve_config(flat) == config
    assert flat.keys() >= {each.name for _, each in known_options(METHODS[method])}
    assert (config.shots, config.seed, config.datasets) == (4, 2, ("a", "b"))


def test_every_kind_of_value_survives_json() -> None:
    for config in (
        resolve(variant="csts", freeze_class_context=True, task_context_init="a tree"),
        resolve("kgcoop", templates=("a {}.", "{}, sketched"), strength=2.5, recipe="full", lr=0.1),
        resolve("linear-probe", C=0.5),
        resolve("tip-adapter", alpha=1, beta=2.0),
    ):
        assert resolve_config(json.loads(json.dumps(config.to_json()))) == config
        assert resolve_config(config.to_json()) != resolve(config.method)


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("softcpt", "shot", "softcpt has no option 'shot': did you mean 'shots'"),
        ("kgcoop", "strenght", "kgcoop has no option 'strenght': did you mean 'strength'"),
        (
            "coop-ca",
            "strength",
            r"coop-ca has no option 'strength' \(that is one of taskres, kgcoop, prograd[a-z, -]*\): leave it out",
        ),
        (
            "softcpt",
            "context_init",
            r"softcpt has no option 'context_init' \(that is .*\): did you mean '(task|class)_context_init'",
        ),
        ("plot", "context_init", "plot has no option 'context_init'"),
        ("coop-mt", "variant", "coop-mt has no option 'variant'"),
        ("zeroshot", "epochs", "zeroshot has no option 'epochs'"),
        ("linear-probe", "lr", "linear-probe has no option 'lr'"),
        ("prototype", "recipe", "prototype has no option 'recipe'"),
        ("cross-modal", "separate", "cross-modal has no option 'separate'"),
        ("softcpt", "options", "softcpt has no option 'options'"),
        ("sofcpt", "shots", "unknown method 'sofcpt': did you mean 'softcpt'"),
    ],
)
def test_what_a_method_does_not_have_is_an_error(method: str, name: str, message: str) -> None:
    for refuse in (lambda: resolve(method, **{name: 4}), lambda: check_names(method, {name: 4})):
        with pytest.raises(UsageError, match=message):
            refuse()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shots", 0),
        ("shots", "four"),
        ("shots", True),
        ("epochs", -1),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", -1),
        ("text_memory", 0),
        ("separate", 1),
        ("device", 0),
        ("context_length", 76),
        ("task_context_length", None),
    ],
)
def test_wrong_values(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{field.replace('_', '-')} must be .*, got '?{value}"):
        resolve(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("suite", None, "suite must be a text, got None"),
        ("backbone", 50, "backbone must be a text, got 50"),
        ("datasets", "leaves", "datasets must be a list of texts, got 'leaves'"),
        ("datasets", [1], r"datasets must be a list of texts, got \[1\]"),
    ],
)
def test_wrong_names(field: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(**{field: value})


def test_templates_survive_json_as_a_tuple() -> None:
    config = resolve("zeroshot", templates=["a {}.", "{}, sketched"])
    assert vars(config.options) == {"templates": ("a {}.", "{}, sketched"), "descriptions": ""}
    assert resolve_config(json.loads(json.dumps(config.to_json()))) == config
    assert options("zeroshot") == {"templates": (), "descriptions": ""}


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "a {0}", "a {name}", "a {} in {", "}{}"])
@pytest.mark.parametrize("method", ["zeroshot", "kgcoop"])
def test_a_template_has_one_place_for_the_name(method: str, template: str) -> None:
    with pytest.raises(UsageError, match="one {} for the class name"):
        resolve(method, templates=("a {}.", template))


@pytest.mark.parametrize("suite", ["", "..", "/tmp/elsewhere", "a/b", "a\\b"])
def test_a_suite_stays_below_the_runs(suite: str) -> None:
    with pytest.raises(UsageError, match="plain folder name"):
        resolve(suite=suite)


def test_a_recipe_completes_what_is_not_given() -> None:
    paper, full = recipe_of(recipe="paper"), recipe_of(recipe="full")
    assert paper == recipe_of() == Recipe()
    assert (paper.batch_size, paper.lr) == (32, 0.002)
    assert {name: getattr(full, name) for name in RECIPES["full"]} == RECIPES["full"]
    assert recipe_of(recipe="full", batch_size=7).batch_size == 7
    assert options("kgcoop", recipe="full")["context_init"] == "a photo of a"
    with pytest.raises(UsageError, match="unknown optimizer 'lion': give one of sgd, adamw, adam"):
        resolve(optimizer="lion")
    with pytest.raises(UsageError, match="unknown recipe 'slow': give one of paper, released, full"):
        resolve(recipe="slow")


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("cocoop", {"epochs": 10, "batch_size": 1}),
        ("tcp", {"optimizer": "adam", "adam_eps": 0.001}),
        ("taskres", {"epochs": 100, "batch_size": 256, "optimizer": "adamw", "lr": 0.002}),
    ],
)
def test_a_method_with_a_recipe_of_its_own_has_no_other(method: str, own: dict[str, Any]) -> None:
    assert recipe_of(method) == Recipe(**own)
    assert recipe_of(method, epochs=3, warmup_epochs=0) == Recipe(**{**own, "epochs": 3, "warmup_epochs": 0})
    assert resolve(method).recipe_name == "paper"
    listed = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in own.items())
    for name in ("full", "slow"):
        with pytest.raises(UsageError, match=rf"{method} is stepped .* \(.*\), .* got '{name}'") as refused:
            resolve(method, recipe=name)
        assert all(words in str(refused.value) for words in listed.split(", "))


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_stepped_has_a_recipe(method: str) -> None:
    config = resolve(method)
    assert (config.recipe is not None) == (method in STEPPED) == METHODS[method].stepped
    assert config.recipe_name == "paper"
    parts = {part for part, _ in known_options(METHODS[method])}
    assert ("recipe" in parts) == (method in STEPPED)


@pytest.mark.parametrize("method", METHODS)
def test_known_options_are_those_that_resolve_takes_with_the_same_defaults(method: str) -> None:
    config = resolve(method).to_json()
    for _, each in known_options(METHODS[method]):
        default = list(each.default) if isinstance(each.default, tuple) else each.default
        assert config[each.name] == default, each.name
        assert resolve(method, **{each.name: each.default}).to_json() == config


def test_runs_that_differ_in_rows_alone() -> None:
    assert differ_in_rows_alone([resolve()])
    assert differ_in_rows_alone([resolve(shots=1), resolve(shots=2, seed=3)])
    for others in ({"lr": 0.1}, {"variant": "nats"}, {"separate": True}, {"datasets": ("b", "a")}):
        assert not differ_in_rows_alone([resolve(), resolve(shots=1, **others)])
    assert not differ_in_rows_alone([resolve("coop-mt"), resolve("coop-ca")])


def test_all_is_a_number_of_shots() -> None:
    config = resolve(shots="all")
    assert config.shots == ALL_SHOTS and config.to_json()["shots"] == "all"
    assert resolve_config(config.to_json()) == config
    for wrong in (0, "every", 1.5):
        with pytest.raises(UsageError, match="shots must be a whole number of at least 1 or all"):
            resolve(shots=wrong)


def test_options_of_several_methods_go_to_those_that_have_them() -> None:
    given = {"strength": 4.0, "recipe": "full", "shots": 4}
    assert share_options(given, ["kgcoop", "taskres", "prototype"]) == {
        "kgcoop": given,
        "taskres": {"strength": 4.0, "shots": 4},
        "prototype": {"shots": 4},
    }
    assert share_options(given, []) == {}
    with pytest.raises(UsageError, match="^coop-ca, prototype have no option 'strength' .that is one of taskres"):
        share_options({"epochs": 2, "strength": 4.0}, ["coop-ca", "prototype"])
    with pytest.raises(UsageError, match="^taskres is stepped as its own paper does"):
        share_options({"recipe": "full"}, ["prototype", "taskres"])
    with pytest.raises(UsageError, match="'sofcpt'"):
        share_options({}, ["softcpt", "sofcpt"])
