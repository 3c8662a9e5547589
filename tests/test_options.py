"""Options as dataclasses: read from source as they are in Python, checked in type and bounds, one flag one type."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import pytest

from cptlite.config import RunConfig, known_options
from cptlite.errors import UsageError
from cptlite.methods.entry import MethodEntry
from cptlite.methods.options import MethodOptions, PromptOptions, TemplateOptions
from cptlite.methods.table import METHODS
from cptlite.options import MOST_RATE, Option, Options, did_you_mean, option, options_of, read_options
from cptlite.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Base(Options):
    """One option of each kind."""

    size: int = option(3, "A size.", least=1, most=9, why="; nine is all there is")
    count: int = option(0, "A count.", least=0)
    rate: float = option(0.5, "A rate.", above=0)
    share: float = option(1.0, "A share.", least=0, most=1)
    limit: float | None = option(None, "A limit.", least=0)
    most_of: int | None = option(None, "Another.", least=2)
    free: float = option(0.0, "Any number.")
    on: bool = option(True, "A switch.")
    word: str = option("", "A word.")
    way: str = option("up", "A way.", choices=("up", "down"))
    words: tuple[str, ...] = option((), "Words.")


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Changes two defaults and adds an option."""

    size: int = 7
    way: str = "down"
    more: int = option(1, "More.")


SOURCE = '''
from __future__ import annotations
from dataclasses import dataclass
from cptlite.options import Options, option

@dataclass(frozen=True, kw_only=True)
class Base(Options):
    """Text, and an attribute that is no option."""

    size: int = option(3, "A size.", least=1, most=9, why="; nine is all")
    rate: float | None = option(None, "A rate, in "
        "two pieces.", above=0)
    words: tuple[str, ...] = option(("a", "b"), "Words.")

@dataclass(frozen=True, kw_only=True)
class Other(Options):
    way: str = option("up", "A way.", choices=("up", "down"))
    size: int = option(1, "The other's size.")

@dataclass(frozen=True, kw_only=True)
class Both(Base, Other):
    size: int = 7
    way: str = "down"
    on: bool = option(False, "A switch.")

@dataclass(frozen=True, kw_only=True)
class Last(Both):
    size: int = 8
'''


def refused(kind: type, name: str, value: Any) -> str:
    """The message about a value that must not pass."""
    with pytest.raises(UsageError) as caught:
        kind(**{name: value})
    return str(caught.value)


# Read from source


@pytest.mark.parametrize("entry", METHODS.values(), ids=METHODS)
def test_options_read_from_source_are_those_of_the_class(entry: MethodEntry) -> None:
    assert entry.list_options() == options_of(type(entry.new_options()))
    assert {each.name for each in entry.list_options()} == {each.name for each in fields(entry.new_options())}


@pytest.mark.parametrize("name", ["Base", "Other", "Both", "Last"])
def test_classes_built_on_one_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"drawn_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    read = read_options(module, name, {"Options": Options})
    assert module not in sys.modules
    assert read == options_of(getattr(import_module(module), name))
    assert len(read) == {"Base": 3, "Other": 2, "Both": 5, "Last": 5}[name]


def test_no_method_is_loaded_for_its_options() -> None:
    program = (
        "import sys; from cptlite.config import known_options; from cptlite.methods.table import METHODS\n"
        "print(sum(len(list(known_options(entry))) for entry in METHODS.values()))\n"
        "print(*[name for name in ('torch', 'sklearn', 'clip') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    number, loaded = done.stdout.split("\n")[:2]
    assert int(number) == sum(len(list(known_options(entry))) for entry in METHODS.values())
    assert loaded == ""


# Types and bounds


@pytest.mark.parametrize("name", ["size", "count", "rate", "share", "limit", "most_of", "free"])
@pytest.mark.parametrize("value", [True, False, "3", "", b"3", [3], math.nan, math.inf, -math.inf, 3 + 0j])
def test_no_number(name: str, value: Any) -> None:
    assert f"{name.replace('_', '-')} must be" in refused(Base, name, value)


@pytest.mark.parametrize("name", ["size", "count", "most_of"])
@pytest.mark.parametrize("value", [1.5, 2.000001, 1e-9])
def test_no_whole_number(name: str, value: float) -> None:
    assert "must be" in refused(Base, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 0), ("size", 10), ("size", -1), ("count", -1), ("rate", 0), ("rate", -1.0), ("rate", 2e38)]
    + [("share", -0.001), ("share", 1.001), ("limit", -1), ("most_of", 1), ("free", 2e38)],
)
def test_out_of_bounds(name: str, value: float) -> None:
    assert f"got {value}" in refused(Base, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 1), ("size", 9), ("count", 0), ("count", 10**12), ("rate", 1e-300), ("rate", MOST_RATE)]
    + [("share", 0), ("share", 1), ("limit", 0), ("limit", None), ("most_of", 2), ("most_of", None), ("free", -5)],
)
def test_bounds_themselves_are_in(name: str, value: float | None) -> None:
    found = getattr(Base(**{name: value}), name)
    assert found == value
    kind = {each.name: each.kind for each in options_of(Base)}[name]
    assert value is None or type(found) is kind


def test_a_whole_float_is_a_whole_number() -> None:
    """JSON and YAML may have written it so."""
    assert type(Base(size=4.0).size) is int  # type: ignore[arg-type]
    assert type(Base(rate=1).rate) is float


@pytest.mark.parametrize("name", ["size", "count", "rate", "share", "free", "on", "word", "way"])
def test_none_is_no_value_unless_it_is_said_to_be(name: str) -> None:
    assert name in refused(Base, name, None)


@pytest.mark.parametrize("value", [1, 0, "true", "", [], math.nan])
def test_a_switch_is_on_or_off(value: Any) -> None:
    assert refused(Base, "on", value) == f"on must be true or false, got {value!r}"


@pytest.mark.parametrize("value", [1, True, b"a", ["a"], ("a",)])
def test_a_text_is_text(value: Any) -> None:
    assert refused(Base, "word", value) == f"word must be a text, got {value!r}"
    assert "way must be a text" in refused(Base, "way", value)


@pytest.mark.parametrize("value", ["", "UP", "u", "sideways"])
def test_a_choice_is_one_of_those_there_are(value: str) -> None:
    assert refused(Base, "way", value) == f"unknown way {value!r}: give one of up, down"


def test_lists_of_texts() -> None:
    assert Base(words=["a", "b"]).words == ("a", "b")  # type: ignore[arg-type]
    assert Base(words=()).words == ()
    for value in ("a {}.", [1], ["a", None], [["a"]], [b"a"]):
        assert refused(Base, "words", value).endswith(f" must be a list of texts, got {value!r}")


def test_a_message_says_what_is_wanted() -> None:
    assert refused(Base, "size", 10) == "size must be from 1 to 9; nine is all there is, got 10"
    assert refused(Base, "count", 1.5) == "count must be a whole number of at least 0, got 1.5"
    assert refused(Base, "rate", 0) == "rate must be above 0 and at most 1e+38, got 0"
    assert refused(Base, "most_of", 1) == "most-of must be a whole number of at least 2, got 1"


def test_unknown_names_and_changes_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Base(sise=3)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Base().size = 4  # type: ignore[misc]


# What a class derived from another has


def test_another_default_leaves_the_rest_as_it_is() -> None:
    base, derived = ({each.name: each for each in options_of(kind)} for kind in (Base, Derived))
    assert [*derived] == [*base, "more"]
    assert (Derived().size, Derived().way) == (7, "down")
    for name, each in base.items():
        changed = {"size": 7, "way": "down"}.get(name, each.default)
        assert derived[name] == Option(**{**vars(each), "default": changed})
    assert refused(Derived, "size", 10) == refused(Base, "size", 10)
    assert refused(Derived, "way", "left") == refused(Base, "way", "left")


@pytest.mark.parametrize("entry", METHODS.values(), ids=METHODS)
def test_defaults_pass_their_own_checks(entry: MethodEntry) -> None:
    for _, each in known_options(entry):
        found = each.check(each.default)
        assert found == each.default
        assert found is None or isinstance(found, get_origin(each.kind) or each.kind)


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "a {0}", "a {name}", "a {} in {", "}{}", "{{}}"])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    """Of every method that has templates, whatever else it checks."""
    having = [entry for entry in METHODS.values() if any(each.name == "templates" for each in entry.list_options())]
    assert len(having) >= 8
    for entry in having:
        assert entry.new_options(templates=["a {}."]) == entry.new_options(templates=("a {}.",))
        with pytest.raises(UsageError, match="one {} for the class name"):
            entry.new_options(templates=("a {}.", template))


# One flag, one type


def test_a_flag_means_one_thing_across_methods() -> None:
    """They all share one command line: a name has one type everywhere, and choices that do not contradict."""
    found: dict[str, tuple[Any, bool]] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for name, entry in METHODS.items():
        names = [each.name for _, each in known_options(entry)]
        assert len(names) == len(set(names)), f"{name} has an option twice"
        for _, each in known_options(entry):
            assert found.setdefault(each.name, (each.kind, each.optional)) == (each.kind, each.optional), each.name
            assert choices.setdefault(each.name, each.choices) == each.choices, each.name
    assert {each.name for kind in (RunConfig, Recipe) for each in options_of(kind)} <= found.keys()


def test_every_option_says_what_it_is() -> None:
    for entry in METHODS.values():
        for _, each in known_options(entry):
            assert each.help.endswith(".") and "\n" not in each.help, each.name
            assert each.label == each.name.replace("_", "-")
            assert each.flag == (each.label.removesuffix("s") if each.kind == tuple[str, ...] else each.label)


def test_numbers_have_a_bound_that_float32_holds() -> None:
    """What they are multiplied with stays finite; those of optional numbers have to say it."""
    for entry in METHODS.values():
        for _, each in known_options(entry):
            assert each.kind is not float or (each.most is not None and each.most <= MOST_RATE), each.name


def test_shared_classes_are_those_a_row_may_name() -> None:
    names = {entry.options for entry in METHODS.values()}
    assert {"PromptOptions", "TemplateOptions", "MethodOptions"} <= names
    assert options_of(MethodOptions) == ()
    assert [each.name for each in options_of(TemplateOptions)] == ["templates", "descriptions"]
    assert [each.name for each in options_of(PromptOptions)] == ["context_length", "context_init", "position"]


# A word that is not known


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("strengh", "did you mean 'strength'?"),
        ("epoch", "did you mean 'epochs'?"),
        ("zzz", "give one of strength, epochs, seed"),
        ("", "give one of strength, epochs, seed"),
    ],
)
def test_did_you_mean(word: str, finish: str) -> None:
    assert did_you_mean(word, ["strength", "epochs", "seed"]) == finish


def test_values_of_one_class_compare_and_hash() -> None:
    """So that runs of one configuration are found."""
    make: Callable[..., Base] = Base
    assert make(words=["a"], rate=1) == make(words=("a",), rate=1.0)
    assert hash(make(words=["a"])) == hash(make(words=("a",)))
    assert make(size=4) != make(size=5)
