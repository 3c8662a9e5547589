"""Datasets as users have them on disk: the catalogue, and the readers that turn files into rows.

The names below load their files when they are first asked for: the command line reads `cptlite.datasets.views` for
``--help``, and needs none of the readers for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cptlite.datasets.catalog import Catalog, load_catalog
    from cptlite.datasets.locate import expected_tree, find_dataset, missing, read_dataset
    from cptlite.datasets.specs import DatasetSpec, Layout, SuiteSpec
    from cptlite.datasets.status import DatasetStatus, dataset_status
    from cptlite.datasets.types import METRICS, SPLITS, Dataset, Rows, Task
    from cptlite.datasets.user import with_columns
    from cptlite.datasets.views import ViewConfig

__all__ = [
    "METRICS",
    "SPLITS",
    "Catalog",
    "Dataset",
    "DatasetSpec",
    "DatasetStatus",
    "Layout",
    "Rows",
    "SuiteSpec",
    "Task",
    "ViewConfig",
    "dataset_status",
    "expected_tree",
    "find_dataset",
    "load_catalog",
    "missing",
    "read_dataset",
    "with_columns",
]

HOMES = {
    "catalog": ("Catalog", "load_catalog"),
    "locate": ("expected_tree", "find_dataset", "missing", "read_dataset"),
    "specs": ("DatasetSpec", "Layout", "SuiteSpec"),
    "status": ("DatasetStatus", "dataset_status"),
    "types": ("METRICS", "SPLITS", "Dataset", "Rows", "Task"),
    "user": ("with_columns",),
    "views": ("ViewConfig",),
}
"""Names by the file of this folder that they are loaded from."""


if not TYPE_CHECKING:  # to a type checker it would make any name a good one

    def __getattr__(name: str) -> Any:
        for home, names in HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
