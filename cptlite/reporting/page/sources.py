"""Where numbers come from: runs by folder, the machines and the cached features they are of, each named once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.files import read_file, sha256_of
from cptlite.reporting.results import Result
from cptlite.runs.files import CONFIG, RESULTS, read_json

__all__ = ["Named", "RunSource", "Sources", "check_own", "find_sources"]


@dataclass
class Named:
    """Tables that differ, each under a name of its own: ``E1``, ``E2``, ..."""

    letter: str
    tables: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by name
    _names: dict[str, str] = field(default_factory=dict)

    def name(self, table: Mapping[str, Any]) -> str:
        """Name a table; one without entries has none."""
        if not table:
            return ""
        name = self._names.setdefault(json.dumps(table, sort_keys=True), f"{self.letter}{len(self._names) + 1}")
        self.tables.setdefault(name, table)
        return name


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """What stands behind the numbers of a run.

    Attributes
    ----------
    folder : str
        Relative to the folder that all runs lie in.
    link : str
        Address of ``results.json``, relative to the page.
    environment, caches : str
        Names in `Sources`, or nothing where it is not recorded.
    """

    folder: str
    link: str
    environment: str
    caches: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What stands behind all numbers of a page.

    Attributes
    ----------
    root : str
        Folder that all runs lie in, relative to the page.
    environments : Named
        As ``config.json`` has them: versions, commit, hardware.
    caches : Named
        By dataset, the fingerprints of the features.
    by_run : dict of int to RunSource
        By the identity of a result.
    """

    root: str
    environments: Named
    caches: Named
    by_run: Mapping[int, RunSource]

    def of(self, result: Result) -> RunSource:
        """Source of a run; of one that was put together, see its runs."""
        return self.by_run[id(result)]


def find_sources(results: Sequence[Result], page: Path) -> Sources:
    """Find what is recorded of runs, for a page at some path.

    Raises
    ------
    DataError
        A run's ``config.json`` is damaged.
    """
    folders = [Path(result["folder"]).absolute() if result.get("folder") else None for result in results]
    some = [str(folder.parent) for folder in folders if folder is not None]
    beside = page.absolute().parent
    root = os.path.commonpath(some) if some else str(beside)
    environments, caches = Named("E"), Named("C")
    by_run = {}
    for result, folder in zip(results, folders, strict=True):
        by_run[id(result)] = RunSource(
            folder="folder not recorded" if folder is None else Path(os.path.relpath(folder, root)).as_posix(),
            link="" if folder is None else quote(Path(os.path.relpath(folder / RESULTS, beside)).as_posix()),
            environment=environments.name({} if folder is None else _environment(result, folder)),
            caches=caches.name(result.get("caches") or {}),
        )
    place = Path(os.path.relpath(root, beside)).as_posix()
    return Sources(root=place, environments=environments, caches=caches, by_run=by_run)


def _environment(result: Result, folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        return {}
    check_own(result, path)
    recorded = read_json(path).get("environment")
    return recorded if isinstance(recorded, dict) else {}


def check_own(result: Result, path: Path) -> None:
    """Refuse a file of a run that is not the one its results have the digest of.

    Raises
    ------
    DataError
        It is damaged, or of another run.
    """
    digest = (result.get("files") or {}).get(path.name)
    if digest is not None and sha256_of(read_file(path)) != digest:
        raise DataError(
            f"wanted what a finished run wrote at {shown(path)}, got another file: train that run again with --force, "
            f"or leave it out"
        )
