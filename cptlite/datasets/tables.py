"""Reading and checking the tables of the catalogue and of users' manifests.

Both have the same form::

    [datasets.my_leaves]
    directory = "leaves"                  # beside the manifest, or under --root
    task = "leaf disease"                 # the words SoftCPT's meta network reads
    template = "a photo of a {} leaf."

    [suites.mine]
    datasets = ["my_leaves", "dtd"]
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cptlite.datasets.specs import (
    DEFAULT_METRIC,
    DEFAULT_TEMPLATE,
    DatasetSpec,
    Layout,
    SuiteSpec,
    TaskWords,
)
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import METRICS
from cptlite.errors import UsageError

__all__ = [
    "TOP_KEYS",
    "check_table",
    "has_place",
    "merged",
    "near_matches",
    "parse_dataset",
    "parse_suite",
]

NAME_PATTERN = re.compile(r"\w[\w.-]*")


def near_matches(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x' or 'y'?)" for the known words closest to ``word``, or ""."""
    lowered = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), lowered, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(lowered[name]) for name in close)}?)" if close else ""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not re.search(r"[\x00-\x1f\x7f-\x9f]", value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _text_table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


Check = tuple[Callable[[Any], bool], str]
TEXT: Check = (_text, "a text")
TEXTS: Check = (_texts, "a list of texts")
TEXT_TABLE: Check = (_text_table, "a table of texts")
TABLE: Check = (lambda value: isinstance(value, dict), "a table")
WHOLE: Check = (_whole, "a whole number")
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
TEMPLATE: Check = (
    lambda value: _text(value) and re.findall(r"\{[^}]*\}?|\}", value) == ["{}"],
    "a text with one {} for the class name",
)
METRIC: Check = (lambda value: value in METRICS, f"one of {', '.join(METRICS)}")
COUNTS: Check = (
    lambda value: isinstance(value, list) and len(value) == 3 and all(map(_whole, value)),
    "three whole numbers (train, val, test)",
)

WORD_KEYS: dict[str, Check] = {"task": TEXT, "template": TEMPLATE, "metric": METRIC}
PLACE_KEYS: dict[str, Check] = {"directory": TEXT, "images": TEXT, "split": TEXT, "reader": TEXT}
OPTION_KEYS: dict[str, Check] = {
    "exclude": TEXTS,
    "labels": TEXTS,
    "mixed": FLAG,
    "numbered": FLAG,
    "seed": WHOLE,
    "path_column": TEXT,
    "label_column": TEXT,
    "split_column": TEXT,
}
LAYOUT_KEYS: dict[str, Check] = {**PLACE_KEYS, **OPTION_KEYS, "class_names": TEXT_TABLE}
DATASET_KEYS: dict[str, Check] = {
    **WORD_KEYS,
    **LAYOUT_KEYS,
    "aliases": TEXTS,
    "tasks": TABLE,
    "torchvision": TABLE,
    "classes": WHOLE,
    "counts": COUNTS,
    "download": TEXT,
    "page": TEXT,
    "split_url": TEXT,
    "note": TEXT,
}
# Keys that say which files a dataset is: a manifest that sets one of PLACE_KEYS describes other files,
# so none of these is taken over from the catalogue.
FILE_KEYS = frozenset(LAYOUT_KEYS) | {"torchvision", "classes", "counts", "download", "page", "split_url", "note"}
TOP_KEYS: dict[str, Check] = {"datasets": TABLE, "suites": TABLE}
SUITE_KEYS: dict[str, Check] = {"datasets": TEXTS, "note": TEXT}


def check_table(table: Any, keys: Mapping[str, Check], where: str) -> None:
    """Refuse unknown keys and values of the wrong kind, naming ``where`` they stand."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: wanted a table, got {reprlib.repr(table)}")
    for key, value in table.items():
        if key not in keys:
            raise UsageError(
                f"{where}: wanted keys among {', '.join(sorted(keys))}, got {key!r}"
                f"{near_matches(key, keys)}; correct or remove it"
            )
        check, wanted = keys[key]
        if not check(value):
            raise UsageError(f"{where}: wanted {key} to be {wanted}, got {reprlib.repr(value)}; correct it")


def check_name(name: str, where: str) -> None:
    """Refuse a name that could not name a cache file."""
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(f"{where}: wanted a name of letters, digits, '_', '-' and '.', got {name!r}; rename it")


def has_place(table: Any) -> bool:
    """Whether a table says where its files lie, rather than only giving words."""
    return isinstance(table, dict) and not PLACE_KEYS.keys().isdisjoint(table)


def merged(known: Mapping[str, Any], table: Any) -> Any:
    """Put a manifest's table over the known one of the same name.

    A table that describes other files keeps only the words of the known one.
    """
    if not isinstance(table, dict):
        return table
    kept = known.items() if not has_place(table) else [i for i in known.items() if i[0] not in FILE_KEYS]
    return dict(kept) | table


def parse_dataset(
    name: str,
    table: Mapping[str, Any],
    where: str,
    base: Path | None,
    readers: Mapping[str, Collection[str]],
) -> DatasetSpec:
    """Make a `DatasetSpec` of one ``[datasets.NAME]`` table.

    Parameters
    ----------
    name : str
        The table's name.
    table : mapping
        Its keys and values, as TOML gives them.
    where : str
        How messages name the table, ``"catalog.toml, [datasets.dtd]"``.
    base : Path or None
        Folder of the manifest; None in the package's own catalogue.
    readers : mapping of str to collection of str
        The readers there are, and the options each of them takes.

    Returns
    -------
    DatasetSpec

    Raises
    ------
    UsageError
        For an unknown key, a value of the wrong kind or an unknown reader.
    """
    check_name(name, where)
    check_table(table, DATASET_KEYS, where)
    torchvision = table.get("torchvision")
    check_table(torchvision or {}, LAYOUT_KEYS, f"{where}, torchvision")
    counts = table.get("counts")
    return DatasetSpec(
        name=name,
        layout=_layout(table, where, readers),
        task_name=table.get("task", name.replace("_", " ").replace("-", " ")),
        template=table.get("template", DEFAULT_TEMPLATE),
        metric=table.get("metric", DEFAULT_METRIC),
        aliases=tuple(table.get("aliases", ())),
        torchvision=_layout(torchvision, f"{where}, torchvision", readers) if torchvision else None,
        tasks=_task_words(table.get("tasks", {}), where),
        num_classes=table.get("classes"),
        counts=(counts[0], counts[1], counts[2]) if counts else None,
        base=base,
        download=table.get("download"),
        page=table.get("page", ""),
        split_url=table.get("split_url"),
        note=table.get("note", ""),
    )


def parse_suite(name: str, table: Mapping[str, Any], where: str) -> SuiteSpec:
    """Make a `SuiteSpec` of one ``[suites.NAME]`` table; raises as `parse_dataset` does."""
    check_name(name, where)
    check_table(table, SUITE_KEYS, where)
    return SuiteSpec(name=name, datasets=tuple(table.get("datasets", ())), note=table.get("note", ""))


def _layout(table: Mapping[str, Any], where: str, readers: Mapping[str, Collection[str]]) -> Layout:
    """Collect a layout's keys; without a named reader it follows from the split file."""
    split = table.get("split")
    by_suffix = {".csv": "csv", ".json": "split_file"}
    reader = table.get("reader", by_suffix.get(Path(split).suffix.lower()) if split else "folders")
    if reader not in readers:
        raise UsageError(
            f"{where}: wanted reader to be one of {', '.join(sorted(readers))}, got {reader!r}"
            f"{near_matches(str(reader), readers)}; name one"
        )
    options = {key: table[key] for key in OPTION_KEYS if key in table}
    for key in options.keys() - set(readers[reader]):
        raise UsageError(f"{where}: reader {reader!r} takes no {key!r}; leave it out")
    if split is None and reader in by_suffix.values():
        raise UsageError(f'{where}: reader {reader!r} wants split = "FILE", got none; name the file')
    return Layout(
        directory=table.get("directory", "."),
        images=table.get("images", "."),
        reader=reader,
        split=split,
        class_names=dict(table.get("class_names", {})),
        options=options,
    )


def _task_words(tables: Mapping[str, Any], where: str) -> dict[str, TaskWords]:
    """Check and collect the words of single tasks."""
    words = {}
    for key, table in tables.items():
        check_table(table, WORD_KEYS, f"{where}, tasks.{shown(key)}")
        words[key] = TaskWords(name=table.get("task"), template=table.get("template"), metric=table.get("metric"))
    return words
