"""What runs were configured as: which may be averaged, and what tells the others apart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cptlite.config import OWN_ROWS, SAME_NUMBERS, default_options
from cptlite.errors import UsageError
from cptlite.reporting.results import Result
from cptlite.training.recipe import PAPER, RELEASED

__all__ = ["Configuration", "configuration", "configuration_key", "say_differences", "say_value"]

Configuration = Mapping[str, Any]
"""Options by name, and what the features were cached as, by ``cached_<name>``; empty where it is not recorded."""

IN_LABEL = ("method", "variant", "recipe")  # said by `method_label`
IN_HEADINGS = ("classes",)  # said by the columns of a table
IN_TITLE = ("dataset", "backbone")  # of a cache's fingerprint, said by the run's own
NOT_RECORDED = "configuration not recorded"
LONGEST_VALUE = 40  # characters in a table


def configuration(result: Result) -> dict[str, Any]:
    """All that two runs must agree in to be averaged: everything but shots, seed and what cannot change the numbers."""
    config = result.get("config") or {}
    told = {name: value for name, value in config.items() if name not in (*OWN_ROWS, *SAME_NUMBERS)}
    caches = list((result.get("caches") or {}).values())
    for name in dict.fromkeys(name for table in caches for name in table if name not in IN_TITLE):
        values = [table.get(name) for table in caches]
        told[f"cached_{name}"] = values[0] if all(value == values[0] for value in values) else values
    return told


def configuration_key(told: Configuration) -> str:
    """Text that is the same for equal configurations alone, in whatever order their options stand."""
    return json.dumps(told, sort_keys=True)


def say_differences(configurations: Sequence[Configuration]) -> list[str]:
    """Say of each of some configurations of one method what sets it apart: ``lr 0.5, context-length 4``.

    That is what differs among them, and what is not the method's default. The words tell any two of them apart.
    """
    recorded = [told for told in configurations if told]
    options = dict.fromkeys(name for told in recorded for name in _defaults(told))  # in the order of folders' names
    names = [name for name in options | {name: None for told in recorded for name in told} if name not in IN_LABEL]
    varying = {name for name in names if len({_value_key(told, name) for told in recorded}) > 1}
    said = []
    for told in configurations:
        defaults = _defaults(told)
        changed = {name for name in defaults.keys() & told.keys() if told[name] != defaults[name]}
        shown = varying | changed.difference(IN_HEADINGS)
        words = (
            f"{name.replace('_', '-')} {say_value(told[name]) if name in told else 'not recorded'}"
            for name in names
            if name in shown
        )
        said.append(", ".join(words) if told else NOT_RECORDED * bool(recorded))
    return said


def _value_key(told: Configuration, name: str) -> str:
    return configuration_key({name: told[name]} if name in told else {})


def _defaults(told: Configuration) -> dict[str, Any]:
    """Defaults of method and recipe as JSON has them; of a method that is not known, none."""
    try:
        defaults = default_options(str(told.get("method")), str(told.get("recipe", PAPER)))
    except UsageError:
        return {}
    if told.get("recipe") == RELEASED and "steps_per_batch" in told:  # which the recipe takes from the variant
        defaults["steps_per_batch"] = told["steps_per_batch"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def say_value(value: Any) -> str:
    """Write a value so that no two of an option look alike; a long one is cut, with a digest of the whole."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) for each in value):
        word = " + ".join(map(say_value, value))
    elif isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value not in ("yes", "no", "none"):
        word = value
    else:
        word = json.dumps(value, sort_keys=True)
    if len(word) <= LONGEST_VALUE:
        return word
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
    return f"{word[: LONGEST_VALUE - 12]}... ({digest})"
