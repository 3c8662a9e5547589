"""Texts of classes in a file that the user gives: attributes or descriptions.

The file is JSON, ``{class: [texts]}``, or one such table for each task, ``{task: {class: [texts]}}``. An option that
names it holds what was read from then on, not the path: ``config.json`` keeps the texts with the run, the folder's name
tells two files apart by a digest, and what becomes of the file later changes no run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cptlite.datasets.text_files import read_json, shown
from cptlite.datasets.types import Task
from cptlite.errors import DataError, UsageError

__all__ = ["class_texts", "is_content", "pack_texts"]

MOST_BYTES = 2**24  # CuPL's sentences for ImageNet are a quarter of it
SHOWN = 5  # names in a message
FORM = 'JSON of the form {"class": ["text", ...]}, or one such table for each task'


def pack_texts(option: str, given: str) -> str:
    """Read the texts that an option names, and check them.

    Parameters
    ----------
    option : str
        For messages.
    given : str
        Path of a file; or its content, which begins with a brace, as ``config.json`` keeps it; or nothing.

    Returns
    -------
    str
        The content, the same for every order and layout of it; empty for nothing.

    Raises
    ------
    UsageError
        There is no file, or what is given as content is none.
    DataError
        The file is too large, no JSON or of another form.
    """
    if not given:
        return ""
    if is_content(given):
        try:
            return _packed(option, json.loads(given))
        except (ValueError, RecursionError, DataError) as error:
            raise UsageError(f"{option} must be {FORM}, got a text that is not ({shown(error)})") from None
    if not os.path.isfile(given):
        raise UsageError(f"{option} must be a file, {FORM}, found none at {shown(given)}: give its path")
    size = os.path.getsize(given)
    if size > MOST_BYTES:
        raise DataError(f"{shown(given)}: wanted at most {MOST_BYTES} bytes of {option}, got {size}: give fewer texts")
    return _packed(f"{shown(given)}: {option}", read_json(Path(given)))


def is_content(given: str) -> bool:
    """Whether a value is the content of a file, not its path."""
    return given.lstrip().startswith("{")


def class_texts(option: str, packed: str, tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    """Return the texts of each class of all tasks, in their order, from what `pack_texts` returned.

    Capitals, underscores and the number of spaces do not tell names apart; a task goes by its id or its name.

    Raises
    ------
    DataError
        A task or a class has none; classes that are not asked for may be there.
    """
    table = json.loads(packed)
    by_task = isinstance(next(iter(table.values())), dict)
    found: list[tuple[str, ...]] = []
    for task in tasks:
        own = _folded(table)
        if by_task:
            own = _folded(own.get(_fold(task.id)) or own.get(_fold(task.name)) or {})
        missing = [name for name in task.class_names if _fold(name) not in own]
        if missing:
            more = f" and {len(missing) - SHOWN} more" * (len(missing) > SHOWN)
            raise DataError(
                f"wanted {option} of every class of task {shown(task.id)!r}, got none of "
                f"{', '.join(repr(shown(name)) for name in missing[:SHOWN])}{more}: give a file that has them too"
            )
        found += [tuple(own[_fold(name)]) for name in task.class_names]
    return found


def _packed(what: str, table: Any) -> str:
    """Check a table; write it in the one way."""
    tables = list(table.values()) if isinstance(table, dict) else []
    by_task = bool(tables) and all(isinstance(each, dict) for each in tables)
    if not tables or not all(map(_is_table, tables if by_task else [table])):
        raise DataError(f"{what}: wanted {FORM}, with at least one text for each class, got something else")
    for each in [table, *tables] if by_task else [table]:
        if len(_folded(each)) < len(each):
            raise DataError(f"{what}: wanted each name once, got two that differ in capitals, underscores or spaces")
    return json.dumps(table, separators=(",", ":"), sort_keys=True)


def _is_table(table: Mapping[str, Any]) -> bool:
    """Whether it has texts, and no others, for each class of one or more."""
    return bool(table) and all(
        isinstance(texts, list) and texts and all(isinstance(text, str) and _is_text(text) for text in texts)
        for texts in table.values()
    )


def _is_text(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _folded(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_fold(name): value for name, value in table.items()}


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
