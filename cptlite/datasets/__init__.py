"""Datasets as users have them on disk: the catalogue, and the readers that turn files into rows."""

from cptlite.datasets.catalog import Catalog, load_catalog
from cptlite.datasets.locate import expected_tree, find_dataset, missing, read_dataset
from cptlite.datasets.specs import DatasetSpec, Layout, SuiteSpec
from cptlite.datasets.status import DatasetStatus, dataset_status
from cptlite.datasets.types import METRICS, SPLITS, Dataset, Rows, Task

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
    "dataset_status",
    "expected_tree",
    "find_dataset",
    "load_catalog",
    "missing",
    "read_dataset",
]
