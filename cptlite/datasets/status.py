"""What `cptlite datasets` shows: what is found under the data root, and how it compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cptlite.datasets.locate import find_place, missing, read_dataset, split_source
from cptlite.datasets.specs import DatasetSpec
from cptlite.datasets.types import SPLITS, Dataset
from cptlite.errors import CptliteError

__all__ = ["DatasetStatus", "dataset_status"]


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """One dataset as found, or not, under a data root.

    Attributes
    ----------
    spec : DatasetSpec
        What the catalogue says.
    folder : Path or None
        Where it was found.
    missing : tuple of Path
        Paths looked for and not found; empty when found.
    split_source : str
        Where the split comes from, in words; "" when not found.
    counts : tuple of three ints or None
        Train, val and test rows as read.
    num_classes, num_tasks : int or None
        As read, classes summed over tasks.
    notes, warnings : tuple of str
        See `cptlite.datasets.types.Dataset`.
    problem : str
        Why a found dataset could not be read; "" when it could.
    """

    spec: DatasetSpec
    folder: Path | None
    missing: tuple[Path, ...] = ()
    split_source: str = ""
    counts: tuple[int, int, int] | None = None
    num_classes: int | None = None
    num_tasks: int | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str = ""

    @property
    def found(self) -> bool:
        """Whether the dataset's files are there."""
        return self.folder is not None

    @property
    def difference(self) -> str:
        """How what was read differs from the full dataset; "" where it does not or is not known."""
        here, full = [], []
        if self.counts and self.spec.counts and self.counts != self.spec.counts:
            here.append("/".join(map(str, self.counts)) + " rows")
            full.append("/".join(map(str, self.spec.counts)) + " rows")
        if self.num_classes and self.spec.num_classes and self.num_classes != self.spec.num_classes:
            here.append(f"{self.num_classes} classes")
            full.append(f"{self.spec.num_classes} classes")
        return f"{' and '.join(here)} here; {' and '.join(full)} in the full dataset" if here else ""


def dataset_status(spec: DatasetSpec, root: Path, *, count: bool = True) -> DatasetStatus:
    """Look for a dataset under the data root and count its rows.

    Parameters
    ----------
    spec : DatasetSpec
        The dataset.
    root : Path
        The data root.
    count : bool
        False leaves the rows unread, which for ImageNet saves seconds.

    Returns
    -------
    DatasetStatus
        A dataset that is missing or cannot be read is no error here.
    """
    place = find_place(spec, root)
    if place is None:
        return DatasetStatus(spec=spec, folder=None, missing=tuple(missing(spec, root)))
    source = split_source(place)
    if not count:
        return DatasetStatus(spec=spec, folder=place.folder, split_source=source)
    try:
        dataset = read_dataset(spec, root)
    except CptliteError as error:
        return DatasetStatus(spec=spec, folder=place.folder, split_source=source, problem=str(error))
    return DatasetStatus(
        spec=spec,
        folder=place.folder,
        split_source=source,
        counts=_counts(dataset),
        num_classes=sum(len(task.class_names) for task in dataset.tasks),
        num_tasks=len(dataset.tasks),
        notes=dataset.notes,
        warnings=dataset.warnings,
    )


def _counts(dataset: Dataset) -> tuple[int, int, int]:
    train, val, test = (len(dataset.splits[split]) for split in SPLITS)
    return train, val, test
