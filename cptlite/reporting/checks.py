"""What results of a run have to be before they are believed, whatever file they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.shots import ALL, read_shots

__all__ = ["WANTED", "Result", "find_wrong"]

Result = Mapping[str, Any]

WANTED = ("method", "suite", "shots", "seed", "tasks", "suite_score")
KINDS: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("method", "suite", "variant", "recipe", "backbone"), str, "text"),
    (("shots", "seed", "parameters"), int, "whole number"),
    (("tasks", "seconds", "config", "caches"), dict, "table"),
)
"""Keys of results by the type that they have; those that are not `WANTED` may be missing or null."""
MOST = 2**63  # of a number: sums and logarithms of many are finite


def find_wrong(result: Result) -> str:
    """Say what of a result is not of its kind, as wanted and got; nothing if all is well."""
    for keys, kind, name in KINDS:
        for key in keys:
            value = read_shots(ALL) if key == "shots" and result[key] == ALL else result.get(key)
            wrong = type(value) is not kind if value is not None else key in WANTED
            if wrong or kind is int and value is not None and not 0 <= value < MOST:
                return f"a {name} as {key}, got {value!r:.40}"
    if not all(isinstance(table, dict) for table in (result.get("caches") or {}).values()):
        return "a table for each of caches"
    for phase, seconds in (result.get("seconds") or {}).items():
        if not _is_number(seconds) or seconds < 0:
            return f"seconds of {shown(phase):.40}, got {seconds!r:.40}"
    scores: dict[str, Any] = {"suite_score": result["suite_score"]}
    scores |= {name: result.get(name) for name in ("base", "new") if "harmonic" in result}
    scores |= {name: result[name] for name in ("seen_score",) if result.get(name) is not None}
    for task, values in result["tasks"].items():
        if not isinstance(values, dict) or not isinstance(values.get("metric"), str):
            return f"a table with its metric for task {task!r:.40}, got {values!r:.40}"
        scores[f"{shown(values['metric']):.40} of task {task!r:.40}"] = values.get(values["metric"])
        halves = ("base", "new", "harmonic") if "harmonic" in values else ()
        scores |= {f"{name} of task {task!r:.40}": values.get(name) for name in halves}
    for name, score in scores.items():
        if not _is_number(score) or not 0 <= score <= 1:
            return f"a {name} from 0 to 1, got {score!r:.40}"
    return "" if result["tasks"] else "the scores of a task, got none"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST  # infinity and NaN are not below
