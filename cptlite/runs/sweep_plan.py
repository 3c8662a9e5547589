"""What a sweep is made of, from flags or a TOML file: methods, shots, seeds, data, values of options; and its runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from cptlite.config import NAMED, OWN_ROWS, SAME_NUMBERS, RunConfig, known_options
from cptlite.datasets.text_files import read_text, shown
from cptlite.errors import DataError, UsageError
from cptlite.files import sha256_of
from cptlite.methods.table import METHODS, find_method
from cptlite.options import MOST_SEED, Option, did_you_mean
from cptlite.runs.sweep import grid
from cptlite.shots import ALL, ALL_SHOTS, say_shots

__all__ = ["SweepPlan", "expand", "plan_file", "read_plan", "whole_numbers"]

MOST_NUMBERS, MOST_RUNS = 1000, 20_000  # of a list, and of a sweep: what a file asks for is bounded before it is made
SETTINGS = "set"
TRUE, FALSE = ("true", "yes"), ("false", "no")


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A grid of runs.

    Attributes
    ----------
    methods : tuple of str
    shots, seeds : tuple of int
        Of shots `ALL_SHOTS` too. Methods that look at no rows run once, at the first of each.
    suites : tuple of str
        Of the catalogue, each trained on by itself; with ``datasets`` the one folder that results are filed under.
    datasets : tuple of str
        Trained on jointly; without these and suites, everything cached.
    backbone : str
        Empty for the one that is cached.
    settings : tuple of (str, tuple)
        Options and the values that each takes; a method that lacks an option runs without it.
    """

    methods: tuple[str, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    suites: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    backbone: str = ""
    settings: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @classmethod
    def from_table(cls, table: Mapping[str, Any], source: str = "") -> SweepPlan:
        """Make a plan of what was given, as flags have it (texts, perhaps with commas) or as TOML has it.

        Parameters
        ----------
        table : mapping
            Attributes by name; ``set`` for the settings, a table of values or lists of them. What is None is not given.
        source : str
            File that it was read from, for messages.

        Raises
        ------
        UsageError
            A name is not known, or a value is not of its kind.
        """
        given = {name: value for name, value in table.items() if value is not None}
        known = [SETTINGS if each.name == "settings" else each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise UsageError(f"{source or 'sweep'} has no {shown(name)!r}: {did_you_mean(name, known)}")
        if not given.get("methods"):
            raise UsageError(f"wanted methods, got none: give --methods, some of {', '.join(METHODS)}")
        parts: dict[str, Any] = {}
        for name in ("methods", "suites", "datasets"):
            parts[name] = _words(name, given.get(name, ()))
        for name, most, words in (("shots", 10**6, {ALL: ALL_SHOTS}), ("seeds", MOST_SEED, {})):
            if name in given:
                parts[name] = whole_numbers(name, given[name], most, words)
        parts["backbone"] = given.get("backbone", "")
        if not isinstance(parts["backbone"], str):
            raise UsageError(f"backbone must be a text, got {parts['backbone']!r}")
        if len(parts["suites"]) > 1 and parts["datasets"]:
            raise UsageError("wanted several suites, or datasets and the one name of their suite, got both: give one")
        parts["settings"] = _settings(parts["methods"], given.get(SETTINGS, {}))
        return cls(**parts)

    def to_toml(self) -> str:
        """Write it so that `read_plan` reads the same plan."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "settings"}
        values["shots"] = tuple(map(say_shots, self.shots))
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        lines += [f"\n[{SETTINGS}]", *(f"{name} = {_toml(values)}" for name, values in self.settings)]
        return "\n".join(lines) + "\n"


def read_plan(path: Path) -> dict[str, Any]:
    """Read the table of a plan, for `SweepPlan.from_table`.

    Raises
    ------
    UsageError
        There is no file, or it is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        reason = f"cannot read it ({error.strerror}); check the path"
    except RecursionError:
        reason = "got tables nested too deep; correct it"
    except (ValueError, DataError) as error:  # TOMLDecodeError, and what `int` says of too many digits
        reason = f"cannot read it as such ({shown(error)}); correct it"
    raise UsageError(f"plan {str(path)!r}: wanted a TOML file, {reason}")


def plan_file(plan: SweepPlan, out: Path) -> Path:
    """Name the file beside the runs that says what the sweep was: one a plan."""
    return out / f"sweep-{sha256_of(plan.to_toml().encode())[:8]}.toml"


def expand(plan: SweepPlan, on: Sequence[tuple[str, Sequence[str]]], backbone: str) -> list[RunConfig]:
    """Make every run of a plan, each once, the most shots first.

    Parameters
    ----------
    plan : SweepPlan
    on : sequence of (str, sequence of str)
        Suite and its datasets, of each that is trained on.
    backbone : str

    Raises
    ------
    UsageError
        There are too many, or a method does not take a value.
    """
    count = len(on) * len(plan.methods) * len(plan.shots) * len(plan.seeds)
    count *= prod(len(values) for _, values in plan.settings)
    if count > MOST_RUNS:
        raise UsageError(f"wanted at most {MOST_RUNS:,} runs in a sweep, got {count:,}: divide it")
    names = [name for name, _ in plan.settings]
    configs: dict[RunConfig, None] = {}
    for (suite, datasets), values in product(on, product(*(values for _, values in plan.settings))):
        given = {
            "suite": suite,
            "datasets": tuple(datasets),
            "backbone": backbone,
            **dict(zip(names, values, strict=True)),
        }
        made = grid(given, methods=plan.methods, shots=plan.shots, seeds=plan.seeds)
        configs |= dict.fromkeys(made)
    once = (plan.shots[0], plan.seeds[0])
    return [config for config in configs if config.entry.needs_rows or (config.shots, config.seed) == once]


def _words(name: str, value: Any) -> tuple[str, ...]:
    texts = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{name} must be a text or a list of texts, got {value!r}")
    return tuple(dict.fromkeys(texts))


def whole_numbers(name: str, value: Any, most: int, words: Mapping[str, int]) -> tuple[int, ...]:
    """Read whole numbers and ranges of them: 3, "1,2,4", "1-3", or a list of such; also words that stand for one.

    Raises
    ------
    UsageError
        There are none, others, or too many.
    """
    also = "".join(f" or {word}" for word in words)
    wanted = f"--{name}: wanted whole numbers, such as 1,2,4 or 1-3{also}, got {value!r}"
    numbers: list[int] = []
    for each in value if isinstance(value, list | tuple) else [value]:
        for word in str(each).split(",") if type(each) in (int, str) else [""]:
            if word.strip() in words:
                numbers.append(words[word.strip()])
                continue
            first, dash, last = (part.strip() for part in word.partition("-"))
            ends = [first, last if dash else first]
            if not all(end.isascii() and end.isdecimal() and len(end) < 20 for end in ends):
                raise UsageError(wanted)
            start, stop = map(int, ends)
            if start > stop or stop > most or stop - start >= MOST_NUMBERS - len(numbers):
                raise UsageError(f"{wanted}: a range goes up, to {most} at most, and a list has at most {MOST_NUMBERS}")
            numbers += range(start, stop + 1)
    if not numbers:
        raise UsageError(wanted)
    return tuple(dict.fromkeys(numbers))


def _settings(methods: Iterable[str], given: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Read the values of options; those of a flag are texts yet."""
    if not isinstance(given, Mapping):
        raise UsageError(f"[{SETTINGS}] must be a table of options, got {given!r}")
    options: dict[str, Option] = {}
    for method in methods:
        for _, each in known_options(find_method(method)):
            options.setdefault(each.name, each)
    by_flag = {each.flag: each.name for each in options.values()} | {each.label: each.name for each in options.values()}
    settings: dict[str, tuple[Any, ...]] = {}
    for word, value in given.items():
        name = by_flag.get(word.replace("_", "-"), word)
        if name in (*OWN_ROWS, *NAMED):
            raise UsageError(f"{name} is no option to be set in a sweep: it has a flag of its own")
        if name not in options:
            raise UsageError(
                f"no method of this sweep has an option {shown(word)!r}: {did_you_mean(word, list(by_flag))}"
            )
        values = value if isinstance(value, list | tuple) else [value]
        settings[name] = tuple(dict.fromkeys(_value(options[name], each) for each in values))
        if not settings[name]:
            raise UsageError(f"{SETTINGS} {shown(word)}: wanted values, got none")
        if name in SAME_NUMBERS and len(settings[name]) > 1:  # whose runs would share a folder
            raise UsageError(
                f"{SETTINGS} {shown(word)}: wanted one value, which changes no numbers, got several: give one"
            )
    return tuple(settings.items())


def _value(option: Option, value: Any) -> Any:
    """Return a value of the option's kind; of a list of texts one or, between plus signs, several."""
    if option.kind == tuple[str, ...]:
        value = value.split("+") if isinstance(value, str) else value
    elif isinstance(value, str) and option.kind is not str:
        word = value.strip().lower()
        try:
            if option.kind is bool:
                value = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[word]
            else:
                value = option.kind(word)
        except (KeyError, ValueError):
            pass  # said by the check
    return option.check(value)


def _toml(value: Any) -> str:
    """Write a text, a number, yes or no, or a list of these as TOML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in _escaped(value))
        return f'"{plain}"'
    return repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
