"""Options that more than one command takes, so that each has one name, one help and one default."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CACHE_DIR",
    "ROOT",
    "BackboneOption",
    "CacheDirOption",
    "DatasetOption",
    "DeviceOption",
    "JsonOption",
    "NoLockOption",
    "LinearBackendOption",
    "PrecisionOption",
    "RootOption",
    "VerboseOption",
    "WorkersOption",
    "complete_dataset",
    "complete_method",
    "split_at_commas",
]

ROOT = Path("data")
CACHE_DIR = Path("cache")

WHERE = "Where"
WHAT = "What"
HOW = "How"


def complete_method(incomplete: str) -> Iterator[tuple[str, str]]:
    """Methods that begin so, with what each learns, to a shell, while a command is typed; after a comma, the last."""
    from cptlite.methods.table import METHODS

    before, comma, word = incomplete.rpartition(",")
    named = before.split(",")
    for name, entry in METHODS.items():
        if name.startswith(word) and name not in named:
            yield f"{before}{comma}{name}", entry.learns


def complete_dataset(incomplete: str) -> Iterator[str]:
    """Datasets, suites and other names of the catalogue that begin so; after a comma, of the last word."""
    from cptlite.datasets import load_catalog

    before, comma, word = incomplete.rpartition(",")
    catalog = load_catalog()
    names = [*catalog.suites, *(name for spec in catalog.datasets.values() for name in (spec.name, *spec.aliases))]
    yield from (f"{before}{comma}{name}" for name in names if name.startswith(word))


def split_at_commas(words: Sequence[str]) -> list[str]:
    """Split words that hold several; one that is a path as it stands is one."""
    # A list may be too long for a path: of one `os.path.exists` says no.
    split = ([word] if os.path.exists(word) else word.split(",") for word in words)
    return [word.strip() for of_one in split for word in of_one]


RootOption = Annotated[
    Path,
    typer.Option("--root", envvar="CPTLITE_DATA", help="Folder of the datasets.", rich_help_panel=WHERE),
]
CacheDirOption = Annotated[
    Path,
    typer.Option("--cache-dir", envvar="CPTLITE_CACHE", help="Folder of the caches.", rich_help_panel=WHERE),
]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        "-d",
        help="A name, a suite, a folder of class folders, a CSV or a manifest; several with commas, or repeated.",
        autocompletion=complete_dataset,
        rich_help_panel=WHAT,
        show_default=False,
    ),
]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="A CLIP name (RN50, ...), a checkpoint file, random:NAME[:SEED], openclip:MODEL\\[/WEIGHTS] or demo.",
        rich_help_panel=WHAT,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=HOW)]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="Of the frozen towers: auto, float32, fp16 or bf16.", rich_help_panel=HOW),
]
LinearBackendOption = Annotated[
    str,
    typer.Option(
        "--linear-backend",
        help="Runs frozen linear layers: auto, onednn (packs them, on a CPU) or torch.",
        rich_help_panel=HOW,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help='Results on stdout as JSON: {"results": [...]}.', rich_help_panel=HOW)
]
NoLockOption = Annotated[
    bool, typer.Option("--no-lock", help="Take no lock: for file systems without, one process.", rich_help_panel=HOW)
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show every setting, one a line, not three lines.", rich_help_panel=HOW),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Threads that read images; by default one a core, 16 at most.",
        rich_help_panel=HOW,
        show_default=False,
    ),
]
