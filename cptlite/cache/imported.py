"""Features that other programs made, as a cache file like those of `cptlite.cache.encode`.

Its fingerprint says where they came from: ``layer`` is "imported", ``preprocess`` names the files and their digest, and
the backbone is the CLIP whose text tower fits, or ``features:ENCODER:DIMENSION`` where none does.

Axes: N rows, n of them in a block, D dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cptlite.backbones import Backbone, feature_space, load_backbone
from cptlite.cache.format import DTYPES, Fingerprint, cache_path, differences
from cptlite.cache.labelled import ImportRequest, label_rows, read_request
from cptlite.cache.read import open_cache
from cptlite.cache.sources import FeatureTable
from cptlite.cache.write import SplitContent, has_leftovers, write_cache, writing
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS, Dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError, DataError, UsageError

__all__ = ["ImportReport", "import_features", "look_through"]

BLOCK = 4096  # rows
SHOWN_FILES = 3
UNIT = 1e-2  # that lengths of features may be off where half precision rounded them
LAYER, UNKNOWN = "imported", "unknown"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What was imported.

    Attributes
    ----------
    path : Path
        The cache file.
    backbone : str
        Name that `cptlite train --backbone` takes.
    layout : str
    rows : mapping of str to int
        By split.
    classes, dimension : int
    normalized : bool
        Whether all rows have unit length.
    complete_already : bool
        Whether the file held all of it before.
    notes, warnings : tuple of str
        Of the dataset, as `Dataset` has them.
    """

    path: Path
    backbone: str
    layout: str
    rows: Mapping[str, int]
    classes: int
    dimension: int
    normalized: bool
    complete_already: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def import_features(
    request: ImportRequest,
    cache_dir: Path,
    *,
    backbone: Backbone | None = None,
    encoder: str = "",
    force: bool = False,
    lock: bool = True,
) -> ImportReport:
    """Write features that other programs made into a cache file.

    Parameters
    ----------
    request : ImportRequest
    cache_dir : Path
        Made if it is not there.
    backbone : Backbone, optional
        Whose text tower fits the features. Without one, probes of image features alone can be trained on them.
    encoder : str
        What made the features, where no backbone fits: those of one name and dimension may be trained on together. By
        default the dataset's name.
    force : bool
        Replace what is there.
    lock : bool
        Keep other processes from writing the file.

    Returns
    -------
    ImportReport

    Raises
    ------
    DataError
        Features or labels are missing, damaged, not finite, or not of one shape; a file holds other features.
    UsageError
        A type of numbers that is not stored, or an encoder's name that is none.
    CptliteError
        pyarrow is wanted and not installed; another process writes the file; the disk is full.
    """
    table = read_request(request)
    dimension = _dimension(table)
    backbone = backbone or _feature_space(encoder or request.spec.name, dimension)
    if backbone.embed_dim != dimension:
        raise DataError(
            f"wanted features of dimension {backbone.embed_dim} for the text tower of {shown(backbone.name)}, got "
            f"{dimension}: give the backbone that made them, or none"
        )
    dtype = request.dtype or ("float16" if table.features[0].dtype == np.float16 else "float32")
    if dtype not in DTYPES:
        raise UsageError(f"features are stored as {' or '.join(DTYPES)}, got dtype {dtype!r}")
    digest, normalized = look_through(table, dtype)
    dataset, places = label_rows(request, table)
    fingerprint = _fingerprint(table, dataset, backbone, dtype, digest, normalized)
    path = cache_path(cache_dir, backbone.slug, dataset.name)
    there = not force and _is_there(path, fingerprint)
    if not there:
        splits = {split: _content(table, dataset, places, split, dtype) for split in SPLITS}
        with writing(path, lock=lock):
            write_cache(path, fingerprint=fingerprint, tasks=dataset.tasks, splits=splits, facts={"device": UNKNOWN})
    elif lock and has_leftovers(path):  # killed after the renaming of the file
        with suppress(CptliteError), writing(path):
            pass
    return ImportReport(
        path=path,
        backbone=backbone.name,
        layout=table.layout,
        rows={split: len(dataset.splits[split]) for split in SPLITS},
        classes=len(dataset.tasks[0].class_names),
        dimension=dimension,
        normalized=normalized,
        complete_already=there,
        notes=dataset.notes,
        warnings=dataset.warnings,
    )


def _feature_space(encoder: str, dimension: int) -> Backbone:
    """Make what stands for a backbone of which there are no towers."""
    name = f"features:{encoder}:{dimension}"
    if feature_space(name) is None:
        raise UsageError(f"wanted a name of letters, digits, '_', '-' and '.' as encoder, got {encoder!r}: rename it")
    return load_backbone(name, device="cpu")


def _fingerprint(
    table: FeatureTable, dataset: Dataset, backbone: Backbone, dtype: str, digest: str, normalized: bool
) -> Fingerprint:
    return Fingerprint(
        dataset=dataset.name,
        split_sha256=dataset.split_sha256,
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocess=_origin(table, digest),
        views=1,
        view_seed=ViewConfig.seed,
        min_scale=ViewConfig.min_scale,
        flip=ViewConfig.flip,
        layer=LAYER,
        normalized=normalized,
        dtype=dtype,
        precision=UNKNOWN,
    )


def _dimension(table: FeatureTable) -> int:
    dims = {array.shape[1] for array in table.features}
    if len(dims) > 1:
        raise DataError(
            f"wanted features of one dimension, got those of {sorted(dims)} in one import: import them apart"
        )
    return int(dims.pop())


def look_through(table: FeatureTable, dtype: str) -> tuple[str, bool]:
    """Refuse rows of which no score can come; give a digest of all rows, and whether they have unit length."""
    digest, unit, row = hashlib.sha256(), True, 0
    for array in table.features:
        for start in range(0, len(array), BLOCK):
            block = np.ascontiguousarray(array[start : start + BLOCK])
            with np.errstate(over="ignore"):
                stored = block.astype(dtype).astype(np.float32)
            lengths = np.linalg.norm(stored.astype(np.float64), axis=1)  # (n,)
            wrong = ~np.isfinite(lengths) | (lengths == 0)
            if wrong.any():
                where = row + start + int(wrong.argmax())
                what = "zeros alone" if lengths[wrong.argmax()] == 0 else f"numbers not finite in {dtype}"
                raise DataError(
                    f"wanted finite features, got {what} in row {where} of {table.num_rows} (and in "
                    f"{int(wrong.sum()) - 1} more near it): leave such rows out, or give --dtype float32"
                )
            unit = unit and bool((np.abs(lengths - 1) < UNIT).all())
            digest.update(block.data)
        row += len(array)
    return digest.hexdigest(), unit


def _origin(table: FeatureTable, digest: str) -> str:
    """Say where features came from, in place of how images were preprocessed."""
    names = [shown(path.name) for path in table.files[:SHOWN_FILES]]
    facts = {"imported": names, "files": len(table.files), "layout": table.layout, "sha256": digest}
    return json.dumps(facts, sort_keys=True)


def _is_there(path: Path, fingerprint: Fingerprint) -> bool:
    """Whether a file holds exactly this; one that holds something else is refused."""
    if not path.exists():
        return False
    with open_cache(path) as cache:
        changed = ", ".join(name for name, _, _ in differences(cache.fingerprint, fingerprint))
    if changed:
        raise DataError(
            f"{shown(path)} holds other features ({changed} differ): give --force to replace them, or another --name"
        )
    return True


def _content(table: FeatureTable, dataset: Dataset, places: Mapping[str, int], split: str, dtype: str) -> SplitContent:
    """Give the rows of a split to the writer of the file."""
    rows = dataset.splits[split]
    chosen = np.array([places[path] for path in rows.paths], dtype=np.int64)
    return SplitContent(
        labels=rows.labels,
        tasks=rows.tasks,
        paths=rows.paths,
        shape=(len(rows), 1, table.features[0].shape[1]),
        blocks=_blocks(table.features, chosen, dtype),
    )


def _blocks(arrays: Sequence[np.ndarray], rows: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    """Read some of all N rows in their order, a block (n, 1, D) at a time."""
    starts = np.cumsum([0, *map(len, arrays)])
    for first in range(0, len(rows), BLOCK):
        chosen = rows[first : first + BLOCK]
        block = np.empty((len(chosen), arrays[0].shape[1]), dtype)
        owner = np.searchsorted(starts, chosen, side="right") - 1
        for index in np.unique(owner):
            here = owner == index
            block[here] = arrays[index][chosen[here] - starts[index]]
        yield block[:, None]
