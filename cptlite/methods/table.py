"""The methods by name: the one place that knows them all.

A row names its class and its options; both are loaded when they are first asked for, so that names, help and flags are
there before PyTorch is.
"""

from __future__ import annotations

from cptlite.errors import UsageError
from cptlite.methods.entry import MethodEntry
from cptlite.methods.probe_table import PROBES
from cptlite.methods.prompt_table import PROMPTS
from cptlite.options import did_you_mean

__all__ = ["METHODS", "find_method", "methods_for"]

METHODS: dict[str, MethodEntry] = {**PROBES, **PROMPTS}


def find_method(name: str) -> MethodEntry:
    """Look a method up.

    Raises
    ------
    UsageError
        Unknown name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: {did_you_mean(name, list(METHODS))}")
    return METHODS[name]


def methods_for(scope: str) -> str:
    """Name the methods, with those variants of theirs, whose numbers are for a task's new classes or for new tasks."""
    enough = {scope, "everything"}
    said = []
    for name, entry in METHODS.items():
        fitting = [variant for variant in entry.variants or ("",) if entry.scope_of(variant) in enough]
        if fitting:
            said.append(f"{name} ({', '.join(fitting)})" if entry.variants else name)
    return ", ".join(said)
