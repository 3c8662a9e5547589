"""What the catalogue, a manifest or a path on the command line says about a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DEFAULT_METRIC", "DEFAULT_TEMPLATE", "DatasetSpec", "Layout", "SuiteSpec", "TaskWords"]

DEFAULT_TEMPLATE = "a photo of a {}."
DEFAULT_METRIC = "acc1"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way a dataset's files may lie.

    Attributes
    ----------
    directory : str
        The dataset's folder, relative to the data root.
    images : str
        Folder the image paths are relative to, within ``directory``.
    reader : str
        Name of the reader that understands the files.
    split : str or None
        The split file within ``directory``, for readers that have one; may hold ``*``.
    class_names : mapping of str to str
        Better words for some of the names found on disk.
    options : mapping of str to object
        What else the reader takes.
    """

    directory: str
    reader: str
    images: str = "."
    split: str | None = None
    class_names: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskWords:
    """Words of one task of a dataset of several; None keeps the dataset's own."""

    name: str | None = None
    template: str | None = None
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset the catalogue, a manifest or a path on the command line describes.

    Attributes
    ----------
    name : str
        Unique; also names the cache file.
    aliases : tuple of str
        Other names users type.
    task_name, template, metric : str
        Words and metric of its task, see `cptlite.datasets.types.Task`.
    layout : Layout
        How its files lie.
    torchvision : Layout or None
        How torchvision's downloader lays them.
    tasks : mapping of str to TaskWords
        Words by task number or by the last part of the task's id, for a dataset of several tasks.
    num_classes : int or None
        Classes of the full dataset, for information.
    counts : tuple of three ints or None
        Train, val and test rows of the full dataset, for information.
    base : Path or None
        Folder its relative ``directory`` is looked for in before the data root.
    download : str or None
        The torchvision class that downloads it.
    page : str
        Address of the page that says where its files are; "" where none is known.
    split_url : str or None
        Address of its split file.
    note : str
        What a user should know before placing the files.
    """

    name: str
    layout: Layout
    task_name: str
    template: str = DEFAULT_TEMPLATE
    metric: str = DEFAULT_METRIC
    aliases: tuple[str, ...] = ()
    torchvision: Layout | None = None
    tasks: Mapping[str, TaskWords] = field(default_factory=dict)
    num_classes: int | None = None
    counts: tuple[int, int, int] | None = None
    base: Path | None = None
    download: str | None = None
    page: str = ""
    split_url: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """A named list of datasets; an empty one carries a note that says what to do instead."""

    name: str
    datasets: tuple[str, ...] = ()
    note: str = ""
