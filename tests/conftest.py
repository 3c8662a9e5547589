"""Seeds, threads and the reference folder, once for every test."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before whatever makes a team of threads: processes side by side (pytest -n 2) have one each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from pretended_cuda import Pretended

# The same examples on every machine; pytest --hypothesis-profile=default draws others.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")

SHARED = Path(os.environ.get("CPTLITE_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.hookimpl(tryfirst=True)  # before those that -m leaves out are
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what goes through the slow twin of the text path."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            if item.callspec.params.get("path") == "plain":
                item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch finds none")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the shell that runs the tests out of them."""
    for name in ("CPTLITE_DATA", "CPTLITE_CACHE", "CPTLITE_DEBUG", "COLUMNS"):  # workers of xdist have the last
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shared_dir() -> Path:
    """Return the folder of reference data beside the checkout (or named by CPTLITE_SHARED)."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference data folder {SHARED}; CPTLITE_SHARED may name another")
    return SHARED


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    """Pretend a GPU for the length of a test."""
    from pretended_cuda import pretend

    with pretend(monkeypatch).entered() as pretended:
        yield pretended
