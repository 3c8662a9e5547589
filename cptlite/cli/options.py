"""Options that more than one command takes, so that each has one name, one help and one default."""

from __future__ import annotations

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
    "LinearBackendOption",
    "PrecisionOption",
    "RootOption",
    "WorkersOption",
]

ROOT = Path("data")
CACHE_DIR = Path("cache")

WHERE = "Where"
WHAT = "What"
HOW = "How"

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
        help="A name, a suite, a folder of class folders, a CSV or a manifest; repeatable.",
        rich_help_panel=WHAT,
        show_default=False,
    ),
]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        help="A CLIP name (RN50, ...), a checkpoint file, random:NAME[:SEED], openclip:MODEL[/WEIGHTS] or demo.",
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
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout.", rich_help_panel=HOW)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Threads that read images; by default one a core, 16 at most.",
        rich_help_panel=HOW,
        show_default=False,
    ),
]
