"""Whether a cache file has the form that its writer gives it, looked at before any of its numbers is read.

HDF5 can say that numbers lie in other files, that they are packed, or that there are more of them than the file has
bytes. The writer never says so; a file that does is refused. Every check raises ValueError with the reason.

Axes: N rows of a split, V views, M patches of an image, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from cptlite.cache.format import Fingerprint, chunk_rows, has_controls, read_value, task_key
from cptlite.datasets.types import METRICS, SPLITS, Task

__all__ = ["BAD_COLUMNS", "check_structure", "read_attribute", "read_fingerprint", "read_tasks", "read_texts"]

BAD_COLUMNS = ("split", "path", "reason")
TEXT = "text"
TASK_ATTRIBUTES = ("index", "id", "name", "template", "metric")
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_BYTES = 2**16
CHECKSUM_BYTES = 4


def read_attribute(place: h5py.File | h5py.Group, name: str) -> Any:
    """Read an attribute that is one number, or a text of fixed length, as a plain Python value."""
    attribute = h5py.h5a.open(place.id, name.encode())
    dtype, text = attribute.dtype, h5py.check_string_dtype(attribute.dtype)
    plain = text.length is not None if text else dtype.kind in "biuf"
    if attribute.shape != () or not plain or attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"the attribute {name!r} is not one number or text")
    value = read_value(place.attrs[name])
    if isinstance(value, str) and has_controls(value):
        raise ValueError(f"the attribute {name!r} holds control characters")
    return value


def read_fingerprint(file: h5py.File) -> tuple[dict[str, Any], Fingerprint]:
    """Read the attributes of a file's root, and the fingerprint among them, each of its type and in its range."""
    if len(file.attrs) > MAX_ATTRIBUTES:
        raise ValueError(f"{len(file.attrs)} attributes, wanted at most {MAX_ATTRIBUTES}")
    attributes = {name: read_attribute(file, name) for name in file.attrs}
    return attributes, Fingerprint.of_attributes(attributes).checked()


def check_structure(file: h5py.File, fingerprint: Fingerprint, num_bytes: int) -> None:
    """Compare a file's groups and datasets with what the writer makes for a fingerprint.

    Parameters
    ----------
    file : h5py.File
    fingerprint : Fingerprint
        As the file's attributes have it.
    num_bytes : int
        Size of the file: its datasets together can have no more.

    Raises
    ------
    ValueError
        A group or dataset lacks, is one too many, lies in another file, has no checksum or another filter, or shapes,
        number types and sizes do not fit.
    """
    names = {"labels", "tasks", "paths", *fingerprint.arrays(SPLITS[0], 0)}
    _check_members(file, {*SPLITS, "tasks", "bad"})
    found: list[h5py.Dataset] = []
    dims = set()
    for split in SPLITS:
        stored = dict(_datasets(file[split], names))
        rows = {name: len(dataset) if dataset.shape else None for name, dataset in stored.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"the {split} rows are of different numbers {sorted(set(rows.values()), key=str)}")
        width = stored["features"].shape[-1]
        dims.add(width)
        count = len(stored["labels"])
        for name, shape in fingerprint.arrays(split, width).items():
            _check_form(stored[name], (count, *shape), fingerprint.dtype)
        for name in ("labels", "tasks"):
            _check_form(stored[name], (count,), "int32")
        _check_form(stored["paths"], (count,), TEXT)
        found += stored.values()
    if len(dims) > 1:
        raise ValueError(f"the splits' features are of different dimensions {sorted(dims)}")
    found += _task_datasets(file["tasks"])
    columns = dict(_datasets(file["bad"], set(BAD_COLUMNS)))
    for dataset in columns.values():
        _check_form(dataset, columns[BAD_COLUMNS[0]].shape[:1], TEXT)
    found += columns.values()
    if len({h5py.h5o.get_info(dataset.id).addr for dataset in found}) < len(found):
        raise ValueError("one dataset stands there under two names")
    if sum(dataset.id.get_storage_size() for dataset in found) > num_bytes:
        raise ValueError("its datasets claim more bytes than the file has")


def _task_datasets(tasks: h5py.Group) -> Iterator[h5py.Dataset]:
    """Give the class names of each task, whose attributes are looked at too."""
    _check_members(tasks, set(tasks))
    for key in tasks:
        [(_, names)] = _datasets(tasks[key], {"classnames"})
        _check_form(names, names.shape[:1], TEXT)
        for name in TASK_ATTRIBUTES:
            read_attribute(tasks[key], name)
        yield names


def _check_members(group: h5py.Group, names: set[str]) -> None:
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{group.name!r} is not a group")
    if set(group) != names:
        lacking, unknown = sorted(names - set(group)), sorted(set(group) - names)
        raise ValueError(f"{group.name!r} lacks {lacking} and holds {unknown}, which it should not")
    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} in {group.name!r} is a link that leads elsewhere")


def _datasets(group: h5py.Group, names: set[str]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Give the datasets of a group, each as its writer stores it: in this file, in chunks with checksums."""
    _check_members(group, names)
    for name in sorted(names):
        dataset = group[name]
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{name!r} in {group.name!r} is not a dataset")
        _check_stored(dataset)
        yield name, dataset


def _check_stored(dataset: h5py.Dataset) -> None:
    how = dataset.id.get_create_plist()
    if how.get_external_count() or how.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"the numbers of {dataset.name!r} lie in other files")
    if how.get_layout() != h5py.h5d.CHUNKED:
        raise ValueError(f"{dataset.name!r} is not stored in chunks, so it has no checksums")
    filters = [how.get_filter(place)[0] for place in range(how.get_nfilters())]
    if filters != [h5py.h5z.FILTER_FLETCHER32]:
        raise ValueError(f"{dataset.name!r} has the filters {filters}, wanted checksums alone")
    chunk = how.get_chunk()
    if chunk[0] > chunk_rows(math.prod(chunk[1:]) * dataset.dtype.itemsize):
        raise ValueError(f"{dataset.name!r} is stored {chunk[0]} rows at a time, which may not fit into memory")
    # A chunk that is not there would read as zeros, one that is stored without its checksum unseen.
    count = math.prod(math.ceil(side / step) for side, step in zip(dataset.shape, chunk, strict=True))
    wanted = count * (math.prod(chunk) * dataset.dtype.itemsize + CHECKSUM_BYTES)
    if dataset.id.get_storage_size() != wanted:
        raise ValueError(
            f"{dataset.name!r} has {dataset.id.get_storage_size()} bytes, wanted {wanted} for the shape {dataset.shape}"
        )


def _check_form(dataset: h5py.Dataset, shape: tuple[int, ...], dtype: str) -> None:
    """Compare shape and number type; chunks span all axes but the rows'."""
    text = h5py.check_string_dtype(dataset.dtype)
    fits = text and text.encoding == "utf-8" if dtype == TEXT else dataset.dtype == np.dtype(dtype)
    if not fits or (text and text.length is None):
        raise ValueError(f"{dataset.name!r} holds {dataset.dtype}, wanted {dtype}")
    if dataset.shape != shape or dataset.chunks[1:] != shape[1:]:
        raise ValueError(
            f"{dataset.name!r} is of shape {dataset.shape} in chunks of {dataset.chunks}, recorded are {shape}"
        )


def read_texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Read a dataset of texts whole."""
    return tuple(text.decode() for text in dataset[:].tolist())


def read_tasks(group: h5py.Group) -> tuple[Task, ...]:
    """Read the tasks of a file whose structure was checked, in their order."""
    found: dict[int, Task] = {}
    for key in group:
        item = group[key]
        words = {name: read_attribute(item, name) for name in ("id", "name", "template", "metric")}
        if not all(isinstance(word, str) for word in words.values()) or task_key(words["id"]) != key:
            raise ValueError(f"the task {key!r} is described by {words}")
        if words["metric"] not in METRICS:
            raise ValueError(f"the task {key!r} is scored by {words['metric']!r}, wanted {' or '.join(METRICS)}")
        found[read_attribute(item, "index")] = Task(class_names=read_texts(item["classnames"]), **words)
    if sorted(found) != list(range(len(group))):
        raise ValueError(f"{len(group)} tasks are numbered {sorted(found)}")
    return tuple(found[index] for index in range(len(group)))
