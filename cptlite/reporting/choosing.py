"""Which of the results that were found a report is of, and which line of a table a name means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cptlite.config import OWN_ROWS
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError, UsageError
from cptlite.options import did_you_mean
from cptlite.reporting.configurations import configuration, say_value
from cptlite.reporting.results import Result, held_out_tasks, run_shots
from cptlite.reporting.summaries import Line
from cptlite.runs.predictions import suite_scores
from cptlite.shots import say_shots

__all__ = ["Wanted", "choose_results", "find_line"]

MOST_SAID = 12  # of what was found, in a message


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What results have to be to be chosen; where nothing is said, anything.

    Attributes
    ----------
    methods, suites, tasks, backbones : tuple of str
        Names. Of a run over more tasks than are wanted the others are left out; its suite score is that of the rest.
    shots, seeds : tuple of int
        Zero-shot, which neither reaches, is kept whatever they are.
    where : mapping of str to tuple of str
        Values of an option, as a report or a command line writes them, of which a run has to have one.
    """

    methods: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose_results(results: Iterable[Result], wanted: Wanted) -> list[Result]:
    """Leave out what is not wanted.

    Parameters
    ----------
    results : iterable of mapping
    wanted : Wanted

    Returns
    -------
    list of mapping
        In their order; at least one.

    Raises
    ------
    DataError
        Nothing is left, or a name, number or value that is wanted is that of no run.
    """
    chosen = list(results)
    chosen = _keep(chosen, "of", wanted.methods, lambda result: result["method"], all_there=False)
    chosen = _keep(chosen, "of suite", wanted.suites, lambda result: result["suite"])
    chosen = _keep(chosen, "of backbone", wanted.backbones, lambda result: result.get("backbone"))
    for name, values in wanted.where.items():
        chosen = _keep_where(chosen, name.replace("-", "_"), values)
    for word, numbers, read in (
        ("with shots", wanted.shots, run_shots),
        ("with seed", wanted.seeds, lambda result: result["seed"]),
    ):
        fixed = [result for result in chosen if run_shots(result) == 0]
        drawn = [result for result in chosen if run_shots(result) != 0]
        kept = {id(result) for result in (_keep(drawn, word, numbers, read) if drawn or not fixed else fixed)}
        chosen = [result for result in chosen if run_shots(result) == 0 or id(result) in kept]
    return _keep_tasks(chosen, wanted.tasks) if wanted.tasks else chosen


def _keep(
    results: Sequence[Result],
    word: str,
    values: Sequence[Any],
    read: Callable[[Result], Any],
    *,
    all_there: bool = True,
) -> list[Result]:
    there = dict.fromkeys(read(result) for result in results)
    if values and (not set(values) & there.keys() or all_there and not there.keys() >= set(values)):
        raise _none_such(f"{word} {', '.join(map(_said, values))}", map(_said, there))
    return [result for result in results if not values or read(result) in values]


def _said(value: Any) -> str:
    return str(say_shots(value)) if type(value) is int else str(value)


def _none_such(wanted: str, there: Iterable[str]) -> DataError:
    found = list(dict.fromkeys(there))
    said = ", ".join(found[:MOST_SAID]) + (f" and {len(found) - MOST_SAID} more" if len(found) > MOST_SAID else "")
    return DataError(f"wanted runs {shown(wanted)}, found those of {shown(said)}: train some, or ask for these")


def _keep_where(results: Sequence[Result], name: str, values: Sequence[str]) -> list[Result]:
    """Keep runs that were configured so; an option that no run has is a mistake."""
    told = [{**(result.get("config") or {}), **configuration(result)} for result in results]
    options = dict.fromkeys(option for each in told for option in each if option not in OWN_ROWS)
    if name not in options:
        raise DataError(
            f"wanted an option of these runs, got {shown(name)!r}: {shown(did_you_mean(name, list(options)))}"
        )
    words = {say_value(each[name]): None for each in told if name in each}
    kept = [
        result
        for result, each in zip(results, told, strict=True)
        if name in each and any(_means(value, each[name]) for value in values)
    ]
    if not kept:
        raise _none_such(f"where {name} is {', '.join(values)}", (f"{name} {word}" for word in words))
    return kept


def _means(word: str, value: Any) -> bool:
    """Whether a word stands for an option's value: as a report says it, or as a number, ``1e-1`` for 0.1."""
    if word in (say_value(value), str(value)):
        return True
    try:
        return type(value) in (int, float) and float(word) == value
    except ValueError:
        return False


def _keep_tasks(results: Sequence[Result], tasks: Sequence[str]) -> list[Result]:
    there = dict.fromkeys(task for result in results for task in result["tasks"])
    if not there.keys() >= set(tasks):
        raise _none_such(f"over task {', '.join(tasks)}", there)
    kept = []
    for result in results:
        scores = {task: values for task, values in result["tasks"].items() if task in tasks}
        if scores == result["tasks"]:
            kept.append(result)
        # Of a run that held tasks out, those it learned from are no result without these.
        elif scores and (not held_out_tasks(result) or any(each.get("held_out") for each in scores.values())):
            kept.append({**result, "tasks": scores, **suite_scores(scores)})
    if not kept:
        raise _none_such(f"that hold out task {', '.join(tasks)}", there)
    return kept


def find_line(lines: Sequence[Line], name: str) -> Line:
    """Find the one line of a table that a name means.

    Parameters
    ----------
    lines : sequence of Line
        Of one table.
    name : str
        As the table says it, ``softcpt-nata (lr 0.5)``; or what is before the brackets, or the method, of one.

    Returns
    -------
    Line

    Raises
    ------
    DataError
        There is none.
    UsageError
        There are several.
    """
    ways: tuple[Callable[[Line], str], ...] = (
        lambda line: line.label,
        lambda line: line.method,
        lambda line: next(result["method"] for runs in line.runs.values() for result in runs.values()),
    )
    for way in ways:
        found = [line for line in lines if way(line) == name]
        if len(found) == 1:
            return found[0]
        if found:
            said = " or ".join(repr(shown(line.label)) for line in found)
            raise UsageError(f"wanted the name of one line, got {shown(name)!r}, which {len(found)} have: give {said}")
    labels = ", ".join(shown(line.label) for line in lines)
    raise DataError(f"wanted {shown(name)!r}, found {labels}: give one of these, as the table has it")
