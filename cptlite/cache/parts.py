"""Finished parts of an encoding pass, so that a killed one goes on where it was.

A part is the rows [k P, (k + 1) P) of a split, in one file that is either whole or not there. Parts lie in a hidden
folder beside the cache file to be, named by a digest of everything the features depend on: parts of another pass are
in another folder.

Axes: N rows of a split, P rows of a part, n rows of it that are encoded, V views, M patches of an
image, D joint dimension.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from cptlite.cache.format import SCHEMA_VERSION, Fingerprint
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import CptliteError
from cptlite.files import replacing

__all__ = ["PartStore", "find_stores"]

MANIFEST = "manifest.json"
DIGEST_DIGITS = 16
MAX_MANIFEST_BYTES = 2**16


@dataclass(frozen=True)
class PartStore:
    """The parts of one pass.

    Attributes
    ----------
    target : Path
        The cache file to be.
    identity : dict
        What the parts depend on; written into the folder's manifest.
    """

    target: Path
    identity: dict[str, Any]

    @classmethod
    def of_pass(cls, target: Path, fingerprint: Fingerprint, part_rows: int, *, anew: bool) -> PartStore:
        """Store of a pass; one that makes everything ``anew`` shares no parts with one that does not."""
        identity = {"schema_version": SCHEMA_VERSION, "part_rows": part_rows, "anew": anew}
        return cls(target, {**identity, "fingerprint": asdict(fingerprint)})

    @property
    def part_rows(self) -> int:
        """Rows per part P; the last part of a split may have fewer."""
        return self.identity["part_rows"]

    @property
    def folder(self) -> Path:
        """Where the parts lie."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]
        return self.target.with_name(f".{self.target.name}.parts-{digest}")

    def prepare(self, *, shared: bool = False) -> None:
        """Make the folder, with its manifest; tidy up after killed passes, unless others are at it (``shared``)."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(".*.tmp") if not shared else ():
            leftover.unlink()
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            with replacing(manifest) as path:
                path.write_text(json.dumps(self.identity, indent=1), encoding="utf-8")

    def encoded(self, split: str, num_rows: int) -> np.ndarray:
        """Which rows of a split are encoded, shape (N,), bool."""
        found = np.zeros(num_rows, bool)
        for part, start in enumerate(range(0, num_rows, self.part_rows)):
            rows = self.finished(split, part)
            if rows is not None and len(rows) == min(self.part_rows, num_rows - start):
                found[start : start + self.part_rows] = rows
        return found

    def finished(self, split: str, part: int) -> np.ndarray | None:
        """Which rows of a part are encoded, shape (P,), bool; None if the part is not there or not readable."""
        try:
            encoded = _load(self._path(split, part), "ok")
        except Exception:  # zipfile raises a dozen kinds on damaged files, and the remedy is the same
            return None
        return encoded if encoded.dtype == bool and encoded.ndim == 1 and len(encoded) <= self.part_rows else None

    def missing_rows(self, num_rows: Mapping[str, int]) -> int:
        """Rows, of so many by split, whose parts no pass has finished; bad images count as finished."""
        missing = 0
        for split, rows in num_rows.items():
            for part, start in enumerate(range(0, rows, self.part_rows)):
                wanted, found = min(self.part_rows, rows - start), self.finished(split, part)
                missing += wanted if found is None or len(found) != wanted else 0
        return missing

    def read(self, split: str, part: int, name: str) -> np.ndarray:
        """``features`` (P, V, D) or ``local`` (P, M, D), zeros where not encoded; a damaged part is deleted."""
        path = self._path(split, part)
        try:
            return _load(path, name)
        except Exception as error:
            path.unlink(missing_ok=True)
            raise CptliteError(
                f"wanted the features in {shown(path)}, got a damaged file ({shown(error)}); it is deleted: "
                f"run the same command again, which encodes its rows anew"
            ) from None

    def blocks(self, split: str, name: str, encoded: np.ndarray) -> Iterator[np.ndarray]:
        """Read the ``encoded`` rows (N,) of a split part by part: each a block (n, V, D) or (n, M, D)."""
        for part, start in enumerate(range(0, len(encoded), self.part_rows)):
            yield self.read(split, part, name)[encoded[start : start + self.part_rows]]

    def write(self, split: str, part: int, arrays: Mapping[str, np.ndarray], encoded: np.ndarray) -> None:
        """Store a part, of which the ``encoded`` rows (P,) count; a reader sees the old one or the new one."""
        content: dict[str, Any] = {**arrays, "ok": encoded}
        with replacing(self._path(split, part)) as path, path.open("wb") as file:
            np.savez(file, **content)

    def remove(self) -> None:
        """Delete all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def finished_rows(self) -> dict[str, int]:
        """Rows encoded so far, by split."""
        rows: dict[str, int] = {}
        for path in sorted(self.folder.glob("*-*.npz")):
            split, _, part = path.stem.rpartition("-")
            encoded = self.finished(split, int(part)) if split in SPLITS and part.isdecimal() else None
            rows[split] = rows.get(split, 0) + (0 if encoded is None else int(encoded.sum()))
        return rows

    def _path(self, split: str, part: int) -> Path:
        return self.folder / f"{split}-{part:06d}.npz"


def find_stores(cache_dir: Path, backbone_slug: str | None = None) -> Iterator[PartStore]:
    """Find the stores of the unfinished passes under a cache folder, of one backbone or of all."""
    folder = "*" if backbone_slug is None else escape(backbone_slug)
    for manifest in sorted(cache_dir.glob(f"{folder}/.*.parts-*/{MANIFEST}")):
        name = manifest.parent.name[1:].rpartition(".parts-")[0]
        try:
            store = PartStore(manifest.parent.with_name(name), _read_identity(manifest))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if store.folder == manifest.parent:
            yield store


def _read_identity(manifest: Path) -> dict[str, Any]:
    """Read what a manifest says, if it is one that `PartStore.of_pass` would write."""
    if not manifest.is_file() or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ValueError("no manifest")
    identity = json.loads(manifest.read_text(encoding="utf-8"))
    fingerprint = Fingerprint(**identity["fingerprint"]).checked()
    whole = {name: identity[name] for name in ("schema_version", "part_rows", "anew")}
    if type(whole["part_rows"]) is not int or whole["part_rows"] < 1:
        raise ValueError(f"parts of {whole['part_rows']!r} rows")
    return {**whole, "fingerprint": asdict(fingerprint)}


def _load(path: Path, name: str) -> np.ndarray:
    """Read an array of a part; a pipe or a device in its place is not opened, an array larger than the file refused."""
    if not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
            raise ValueError(f"its {name} are packed")
        with archive.open(entry) as content:
            return np.lib.format.read_array(content, allow_pickle=False)
