"""Where a run lies: one folder a configuration, named after what differs from the method's defaults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from cptlite.backbones import backbone_slug
from cptlite.cache.format import task_key
from cptlite.config import RunConfig
from cptlite.datasets import Catalog, load_catalog
from cptlite.datasets.suites import choose_suite
from cptlite.errors import UsageError
from cptlite.shots import say_shots
from cptlite.training.recipe import PAPER

__all__ = ["run_folder", "task_folder"]

LONGEST_NAME = 100  # characters of a folder's name; file systems take 255 bytes, Windows 260 for a whole path
DIGEST = 13  # of these, for a tilde and 48 bits of a digest


def run_folder(out: Path, config: RunConfig) -> Path:
    """Folder of a run: ``OUT/<suite>/<method>[-<variant>][-<recipe>][<what differs>]/<backbone>/shots16-seed1``.

    A variant that is not the method's first, and a recipe that is not the paper's, stand behind the method's name;
    then whatever else differs from the method's defaults, such as ``-lr0.05-context_length4``. No two configurations
    have one folder, but for `SAME_NUMBERS`; the folder of the defaults has the plain name.

    Raises
    ------
    UsageError
        There are runs of a suite whose name some file systems take for the same.
    """
    _check_suite(out, config.suite)
    words = [config.method]
    if config.variant and config.variant != config.entry.variants[0]:
        words.append(config.variant)
    if config.recipe_name != PAPER:
        words.append(config.recipe_name)
    differences = config.differences()
    if not _suite_says_datasets(config):
        differences = (("datasets", config.datasets), *differences)
    name = _add_differences("-".join(words), differences)
    return (
        out / config.suite / name / backbone_slug(config.backbone) / f"shots{say_shots(config.shots)}-seed{config.seed}"
    )


def _check_suite(out: Path, suite: str) -> None:
    """Refuse a suite that Windows and macOS would file with another: they know no capitals, and one form of accents."""
    with suppress(OSError):
        for other in os.listdir(out):
            if other != suite and _file_key(other) == _file_key(suite):
                raise UsageError(
                    f"wanted a suite whose name differs from others in more than capitals or the form of accents, got "
                    f"{suite!r} where {str(out)!r} holds {other!r}: give --suite {shlex.quote(other)}, another name, "
                    f"or another --out"
                )


def _file_key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _suite_says_datasets(config: RunConfig) -> bool:
    """Whether a suite's name stands for its datasets in their order, and for no others."""
    catalog = _catalog()
    if config.suite in catalog.suites:
        return catalog.suites[config.suite].datasets == config.datasets
    # A plus in a dataset's name would make "a+b" and "c" read as "a" and "b+c" do.
    return config.suite == choose_suite(config.datasets, catalog) and not any("+" in name for name in config.datasets)


@cache
def _catalog() -> Catalog:
    return load_catalog()


def _add_differences(name: str, differences: Sequence[tuple[str, Any]]) -> str:
    """Write differing options behind a name.

    What no file name can say, or not within `LONGEST_NAME` characters, is said by a digest of all that differs, behind
    the names and words that can be given.
    """
    said, told = name, True
    for option, value in differences:
        word = _word(option, value)
        fitting = [each for each in (word, option) if each and len(said) + len(each) < LONGEST_NAME - DIGEST]
        told = told and fitting[:1] == [word]
        said = "-".join((said, *fitting[:1]))
    if told:
        return said
    return f"{said}~{hashlib.sha256(json.dumps(differences).encode()).hexdigest()[: DIGEST - 1]}"


def _word(option: str, value: Any) -> str | None:
    """Write an option and its value as a word of a file name; None where no word can say the value."""
    if isinstance(value, bool):
        return option if value else f"no_{option}"
    if isinstance(value, int | float):
        return f"{option}{str(value).removesuffix('.0')}"
    texts = (value,) if isinstance(value, str) else value
    # Small letters alone: to some file systems A and a are one.
    plain = isinstance(texts, tuple) and texts and all(re.fullmatch("[a-z0-9_]+", text) for text in texts)
    return f"{option}_{'+'.join(texts)}" if plain else None


def task_folder(folder: Path, task_id: str) -> Path:
    """Folder of a task that is learned on its own, in its run's folder."""
    return folder / "tasks" / task_key(task_id)
