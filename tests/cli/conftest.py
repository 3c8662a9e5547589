"""A backbone and caches that a file's commands work on."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_bench import encode_datasets

from cptlite.backbones import Backbone, load_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture(scope="module")
def caches(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_datasets(backbone, tmp_path_factory.mktemp("shelf"))
