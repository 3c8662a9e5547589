"""Names of runs' folders: one a configuration, whatever file system they are on."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from cptlite.config import OWN_ROWS, SAME_NUMBERS, RunConfig, known_options, resolve_config
from cptlite.datasets import load_catalog
from cptlite.datasets.suites import choose_suite
from cptlite.errors import DataError, UsageError
from cptlite.methods.class_texts import TEXT_OPTIONS, ClassTexts, texts_in
from cptlite.methods.table import METHODS
from cptlite.options import Option
from cptlite.runs.files import read_json
from cptlite.runs.folders import run_folder
from cptlite.training.recipe import RECIPES

GIVEN = {"suite": "a+b", "datasets": ("a", "b"), "backbone": "RN50"}
RESERVED = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$')
"""What Windows takes in no name, or cuts off its end."""


def resolve(method: str = "softcpt", **given: Any) -> RunConfig:
    return resolve_config({**GIVEN, "method": method, **given})


def name_of(config: RunConfig) -> str:
    folder = run_folder(Path("runs"), config)
    assert folder == Path("runs", config.suite, folder.parts[2], "RN50", f"shots{config.shots}-seed{config.seed}")
    return folder.parts[2]


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[" * 100_000, b"[]"])
def test_what_is_no_table_is_one_error_and_a_pipe_is_not_waited_for(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="got a damaged file: give --force"):
        read_json(path)


@pytest.mark.parametrize("method", METHODS)
def test_folders_of_defaults_have_the_plain_name(method: str) -> None:
    assert name_of(resolve(method, shots=4, seed=2)) == method
    assert name_of(resolve(method, device="cpu", **given_where_known(method))) == method
    assert resolve(method).differences() == ()


def given_where_known(method: str) -> dict[str, Any]:
    """Options that move no number, where the method has them."""
    known = {each.name for _, each in known_options(METHODS[method])}
    given = {"text_path": "plain", "text_memory": 1.0, "cuda_graphs": False, "linear_backend": "torch"}
    assert {*given, "device"} == set(SAME_NUMBERS)
    return {name: value for name, value in given.items() if name in known}


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("softcpt", {"lr": 0.05, "context_length": 4}, "softcpt-lr0.05-context_length4"),
        ("softcpt", {"lr": 0.002, "context_length": 16}, "softcpt"),
        ("softcpt", {"variant": "nats"}, "softcpt-nats"),
        ("softcpt", {"variant": "nats", "recipe": "full"}, "softcpt-nats-full"),
        ("softcpt", {"recipe": "full", "lr": 0.003}, "softcpt-full"),
        ("softcpt", {"recipe": "full", "lr": 0.002}, "softcpt-full-lr0.002"),
        ("softcpt", {"recipe": "released"}, "softcpt-released"),
        ("softcpt", {"recipe": "released", "variant": "cata"}, "softcpt-cata-released"),
        ("softcpt", {"recipe": "released", "steps_per_batch": 2}, "softcpt-released-steps_per_batch2"),
        ("softcpt", {"separate": True, "position": "front"}, "softcpt-separate-position_front"),
        ("kgcoop", {"separate": False, "strength": 4}, "kgcoop-no_separate-strength4"),
        ("kgcoop", {"precision": "fp16", "warmup_lr": 1e-7}, "kgcoop-precision_fp16-warmup_lr1e-07"),
        ("cocoop", {"epochs": 10, "batch_size": 2}, "cocoop-batch_size2"),
        ("coop-mt", {"momentum": -0.0}, "coop-mt-momentum0"),
        ("linear-probe", {"C": 0.5}, "linear-probe-C0.5"),
    ],
)
def test_what_differs_from_the_defaults_is_read_in_the_name(method: str, options: dict[str, Any], name: str) -> None:
    assert name_of(resolve(method, **options)) == name


def test_what_no_name_can_say_is_a_digest_of_all_that_differs() -> None:
    name = name_of(resolve("kgcoop", lr=0.1, templates=("a {}?", "the {}")))
    assert re.fullmatch("kgcoop-lr0.1-templates~[0-9a-f]{12}", name)
    assert name != name_of(resolve("kgcoop", lr=0.1, templates=("the {}", "a {}?")))
    assert name != name_of(resolve("kgcoop", lr=0.1, templates=("a {}?",)))
    assert (
        len({name_of(resolve("coop-mt", context_init=words)).casefold() for words in ("a", "A", "a-", "ä", "con")}) == 5
    )


@pytest.mark.parametrize(
    ("suite", "datasets", "name"),
    [
        ("a+b", ("a", "b"), "coop-mt"),
        ("a+b", ("b", "a"), "coop-mt-datasets_b+a"),
        ("mine", ("a", "b"), "coop-mt-datasets_a+b"),
        ("mine", ("a", "c"), "coop-mt-datasets_a+c"),
        ("fashion20", ("fashion20",), "coop-mt"),
        ("demo", ("demo",), "coop-mt-datasets_demo"),
    ],
)
def test_datasets_that_the_suite_does_not_say_are_in_the_name(suite: str, datasets: tuple[str, ...], name: str) -> None:
    assert name_of(resolve("coop-mt", suite=suite, datasets=datasets)) == name


def test_suites_of_the_catalogue_and_of_many_stand_for_their_datasets_in_their_order() -> None:
    catalog = load_catalog()
    plants = catalog.suites["plant6"].datasets
    for names in (plants, plants[:5]):
        suite = choose_suite(names, catalog)
        assert name_of(resolve("coop-mt", suite=suite, datasets=names)) == "coop-mt"
        for others in (names[::-1], names[1:], (*names[:-1], "other")):
            other = name_of(resolve("coop-mt", suite=suite, datasets=others))
            assert re.fullmatch(r"coop-mt-datasets(~[0-9a-f]{12}|_[a-z_+]+)", other)
    joined = [name_of(resolve("coop-mt", suite="a+b+c", datasets=names)) for names in (("a+b", "c"), ("a", "b+c"))]
    assert len({*joined, "coop-mt"}) == 3


def values_of(option: Option) -> st.SearchStrategy[Any]:
    """Values that an option takes, most of them its default or near others."""
    if option.name == "templates":
        return st.lists(st.text(st.sampled_from("aA -+~_"), max_size=20).map(lambda words: words + "{}")).map(tuple)
    if option.name in TEXT_OPTIONS:
        tables = [{name: [f"{name} {index}"]} for index in (1, 2) for name in "ab"]
        return st.sampled_from(("", *(ClassTexts(option.name, table) for table in tables)))
    if option.name in ("held_out_tasks", "supports"):
        return st.lists(st.sampled_from(("a", "A", "fashion20/pants", "x+y")), max_size=2).map(tuple)
    if option.kind is bool:
        return st.booleans()
    if option.choices:
        return st.sampled_from(option.choices)
    if option.kind is str:
        return st.one_of(st.sampled_from(("float32", "fp16")), st.text(max_size=200))
    least = option.least if option.above is None else option.above
    assert least is not None, option.name
    if option.kind is int:
        numbers = st.one_of(st.integers(1, 40), st.integers(int(least), int(option.most or 10**120)))
        return numbers.filter(lambda value: value >= least)
    most = 0.99 if option.name == "momentum" else option.most
    return st.floats(least, most, exclude_min=option.above is not None)


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    method = draw(st.sampled_from(sorted(METHODS)))
    known = options_of(method)
    changed = draw(st.sets(st.sampled_from(sorted(known)), max_size=draw(st.sampled_from((1, 3, len(known))))))
    options = {name: draw(values_of(known[name])) for name in sorted(changed)}
    if "recipe" in options and draw(st.booleans()):  # a recipe's own numbers, typed out, are no difference
        options |= RECIPES["full"]
    names = draw(st.lists(st.sampled_from(("a", "b", "c", "a+b", "A", "plus-minus")), min_size=1, unique=True))
    suite = draw(st.sampled_from(("a", "a+b", "mine", "+".join(names))))
    given = {"method": method, "suite": suite, "datasets": names, "backbone": "RN50", "shots": 1}
    return taken({**given, **options})


@st.composite
def pairs(draw: st.DrawFn) -> tuple[RunConfig, RunConfig]:
    """Two configurations, often of one method and but one option apart."""
    one = draw(configurations())
    if draw(st.booleans()):
        return one, draw(configurations())
    known = options_of(one.method)
    names = draw(st.sets(st.sampled_from(sorted(known)), max_size=2))
    return one, taken({**one.to_json(), **{name: draw(values_of(known[name])) for name in names}})


def taken(given: dict[str, Any]) -> RunConfig:
    """The configuration, if its options go together."""
    try:
        return resolve_config(given)
    except UsageError:
        reject()


def options_of(method: str) -> dict[str, Option]:
    return {each.name: each for _, each in known_options(METHODS[method]) if each.name not in OWN_ROWS}


def numbers_of(config: RunConfig) -> RunConfig:
    """The configuration, with the options that move no number at their defaults."""
    return replace(config, **{name: getattr(RunConfig, name) for name in SAME_NUMBERS})


@pytest.mark.slow
@given(pairs())
@settings(max_examples=300, deadline=None)
def test_two_configurations_have_one_folder_if_and_only_if_they_give_the_same_numbers(
    pair: tuple[RunConfig, RunConfig],
) -> None:
    one, other = (run_folder(Path("runs"), config) for config in pair)
    # Some file systems take small letters and capitals for one; a suite's own name is as the user wrote it.
    same = one.parts[1] == other.parts[1] and str(one).casefold() == str(other).casefold()
    assert same == (numbers_of(pair[0]) == numbers_of(pair[1]))
    for folder in (one, other):
        assert len(folder.parts[2]) <= 100
        assert not RESERVED.search(folder.parts[2])


@given(configurations())
@settings(deadline=None)
def test_a_configuration_read_back_has_its_folder(config: RunConfig) -> None:
    stored = json.loads(json.dumps(config.to_json()))
    for texts in texts_in(config.options):  # as a digest; what they say is kept beside it
        stored[texts.option] = texts
    again = resolve_config(stored)
    assert run_folder(Path("runs"), again) == run_folder(Path("runs"), config)
    assert again.differences() == config.differences()


@pytest.mark.parametrize(
    ("there", "suite"), [("Shelf", "shelf"), ("shelf", "SHELF"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße")]
)
def test_suites_that_some_file_systems_take_for_one_are_refused(tmp_path: Path, there: str, suite: str) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(UsageError, match="differs from others in more than capitals .* give --suite"):
        run_folder(tmp_path, resolve(suite=suite))
    assert run_folder(tmp_path, resolve(suite=there)).parents[2].name == there
    assert run_folder(tmp_path / "elsewhere", resolve(suite=suite)).parents[2].name == suite
