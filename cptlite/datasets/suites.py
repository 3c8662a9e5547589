"""The name of a suite: what results over some datasets are filed under."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cptlite.datasets.catalog import Catalog

__all__ = ["choose_suite"]

MAX_JOINED_NAMES = 3  # of datasets, in the name of their suite


def choose_suite(names: Sequence[str], catalog: Catalog) -> str:
    """Name the folder of results over some datasets: a suite's name, their own, or a number and a digest."""
    for suite in catalog.suites.values():
        if set(suite.datasets) == set(names):
            return suite.name
    if len(names) <= MAX_JOINED_NAMES:
        return "+".join(names)
    return f"{len(names)}-datasets-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"
