"""The form of a cache file: where it lies, what identifies it, how text is stored; ``cache/README.md`` explains it.

Axes: N rows of a split, V views, M patches of an image, I input of the projection, D joint
dimension.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cptlite.datasets.types import Dataset
from cptlite.datasets.views import ViewConfig

__all__ = [
    "DTYPES",
    "LIBRARY_VERSION",
    "SCHEMA_VERSION",
    "Fingerprint",
    "cache_path",
    "chunk_rows",
    "differences",
    "has_controls",
    "preprocess_json",
    "read_value",
    "task_key",
    "write_dataset",
    "write_texts",
    "write_value",
]

SCHEMA_VERSION = 2
# From 1.10 on HDF5 checks its own structures too, not only the chunks of data.
LIBRARY_VERSION = ("v110", "v110")
CHUNK_BYTES = 2**18
DTYPES = ("float16", "float32")
BESIDE = ("local", "pre_projection")  # what says of features that they are stored beside the pooled ones
TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Everything that the features of a cache file depend on, stored as attributes of its root.

    Attributes
    ----------
    dataset : str
    split_sha256 : str
        `Dataset.split_sha256`: tasks, classes and labelled rows.
    backbone : str
        The name that loads it.
    weights_sha256 : str
    preprocess : str
        The backbone's ``preprocess_spec`` as JSON.
    views, view_seed, min_scale, flip : int, int, float, bool
        `ViewConfig`; with one view the others are the defaults, since nothing depends on them.
    layer : str
        Where in the tower the features are taken.
    normalized : bool
        Whether the stored features have unit length.
    dtype : str
        Number type of the stored features.
    precision : str
        Number type the tower computed in.
    local : int
        Patch features M of an image that are stored beside the pooled ones; 0 where there are none.
    pre_projection : int
        Width I of the features before the tower's projection, of every view, that are stored beside the others; 0 where
        there are none, and of files that earlier versions made.
    """

    dataset: str
    split_sha256: str
    backbone: str
    weights_sha256: str
    preprocess: str
    views: int
    view_seed: int
    min_scale: float
    flip: bool
    layer: str = "post_projection"
    normalized: bool = False
    dtype: str = "float16"
    precision: str = "float32"
    local: int = 0
    pre_projection: int = 0

    @classmethod
    def of_pass(
        cls,
        dataset: Dataset,
        backbone: Any,
        views: ViewConfig,
        dtype: str,
        *,
        patches: bool = False,
        pre_projection: bool = False,
    ) -> Fingerprint:
        """Fingerprint of what `cptlite.cache.encode.encode_dataset` would make of a dataset and a `Backbone`."""
        drawn = views if views.views > 1 else ViewConfig()
        return cls(
            dataset=dataset.name,
            split_sha256=dataset.split_sha256,
            backbone=backbone.name,
            weights_sha256=backbone.weights_sha256,
            preprocess=preprocess_json(backbone.preprocess_spec),
            views=views.views,
            view_seed=drawn.seed,
            min_scale=drawn.min_scale,
            flip=drawn.flip,
            dtype=dtype,
            precision=backbone.precision,
            local=backbone.num_patches if patches else 0,
            pre_projection=backbone.pre_projection_dim if pre_projection else 0,
        )

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any]) -> Fingerprint:
        """Fingerprint among the attributes of a file; KeyError names one that lacks."""
        given = {"pre_projection": 0, **attributes}
        return cls(**{item.name: given[item.name] for item in fields(cls)})

    def checked(self) -> Fingerprint:
        """Return itself if each field is of its type and in its range, as a file may say anything; else ValueError."""
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) not in TYPES[str(item.type)] or (isinstance(value, str) and has_controls(value)):
                raise ValueError(f"{item.name} is {value!r}, wanted a value of {item.type} without control characters")
        if self.views < 1 or self.local < 0 or self.pre_projection < 0 or self.dtype not in DTYPES:
            raise ValueError(
                f"{self.views} views, {self.local} patch features, {self.pre_projection} numbers before the "
                f"projection, numbers of type {self.dtype!r}"
            )
        return self

    def num_views(self, split: str) -> int:
        """Count the views V of an image of a split: validation and test images have the plain one only."""
        return self.views if split == "train" else 1

    def arrays(self, split: str, dim: int) -> dict[str, tuple[int, int]]:
        """Arrays of features of a split by name, each (vectors of a row, their width); ``dim`` is the joint one."""
        found = {"features": (self.num_views(split), dim)}
        if self.local:
            found["local"] = (self.local, dim)
        if self.pre_projection:
            found["pre"] = (self.num_views(split), self.pre_projection)
        return found

    def row_numbers(self, split: str, dim: int) -> int:
        """Count the numbers that are stored of a row."""
        return sum(count * width for count, width in self.arrays(split, dim).values())

    def of_pooled(self) -> dict[str, Any]:
        """Give the fields that the pooled features depend on: they are the same with others beside them."""
        return {name: value for name, value in asdict(self).items() if name not in BESIDE}


def has_controls(text: str) -> bool:
    """Whether a text holds characters that steer a terminal."""
    return any(unicodedata.category(letter) == "Cc" for letter in text)


def preprocess_json(spec: Mapping[str, Any]) -> str:
    """Text of a ``preprocess_spec``, equal for equal ones."""
    return json.dumps(spec, sort_keys=True)


def differences(found: Fingerprint, expected: Fingerprint | Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compare field by field.

    Parameters
    ----------
    found : Fingerprint
        Of a file.
    expected : Fingerprint or mapping
        A mapping may hold some of the fields.

    Returns
    -------
    list of (field, value found, value expected)
        Empty if they agree. The same weights under another name agree, and so do features beside the pooled ones that
        are not expected.
    """
    wanted = asdict(expected) if isinstance(expected, Fingerprint) else dict(expected)
    if wanted.get("weights_sha256") == found.weights_sha256:
        wanted.pop("backbone", None)
    for name in BESIDE:
        if not wanted.get(name):
            wanted.pop(name, None)
    stored = asdict(found)
    assert wanted.keys() <= stored.keys(), f"not fields of a fingerprint: {wanted.keys() - stored.keys()}"
    return [(name, stored[name], value) for name, value in wanted.items() if stored[name] != value]


def cache_path(cache_dir: Path, backbone_slug: str, dataset_name: str) -> Path:
    """Name of a cache file: ``CACHE_DIR/<backbone>/<dataset>.h5``."""
    name = dataset_name.replace("/", "-").replace("\\", "-").lstrip(".")
    return Path(cache_dir) / backbone_slug / f"{name}.h5"


def task_key(task_id: str) -> str:
    """Group name of a task: its id, with what HDF5 would read as a path written as in web addresses."""
    key = task_id.replace("%", "%25").replace("/", "%2F")
    return key if key.strip(".") else key.replace(".", "%2E")


def chunk_rows(row_bytes: int) -> int:
    """Rows per chunk of a dataset, for chunks of about 256 KiB."""
    return max(1, CHUNK_BYTES // max(1, row_bytes))


def write_value(place: Any, name: str, value: str | float | bool) -> None:
    """Store an attribute; text as UTF-8 of fixed length, which HDF5 covers with a checksum, unlike the other kind."""
    if isinstance(value, str):
        raw = value.encode()
        place.attrs.create(name, raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))
    else:
        place.attrs[name] = value


def read_value(value: Any) -> Any:
    """Plain Python value of an attribute as h5py gives it."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def write_dataset(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    """Make a dataset whose every chunk carries a checksum; any axis may be empty."""
    dtype = np.dtype(dtype)
    rows = chunk_rows(int(np.prod(shape[1:])) * dtype.itemsize)
    return group.create_dataset(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(max(1, min(rows, shape[0])), *shape[1:]),
        maxshape=(None, *shape[1:]),
        fletcher32=True,
    )


def write_texts(group: h5py.Group, name: str, texts: list[str]) -> None:
    """Store UTF-8 texts as a dataset of fixed length, of which one chunk is in memory at a time."""
    dtype = h5py.string_dtype("utf-8", max((len(text.encode()) for text in texts), default=1) or 1)
    dataset = write_dataset(group, name, (len(texts),), dtype)
    for (part,) in dataset.iter_chunks() if len(texts) else ():
        dataset[part] = np.array([text.encode() for text in texts[part]], dtype=dtype)
