"""One set of caches for the tests of runs, which leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from run_bench import BACKBONE, RunBench, encode_datasets

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache, open_caches


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone(BACKBONE, device="cpu")


@pytest.fixture(scope="session")
def caches(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_datasets(backbone, tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def bench(backbone: Backbone, caches: Path, tmp_path: Path) -> RunBench:
    return RunBench(backbone, caches, tmp_path)


@pytest.fixture
def opened(caches: Path, backbone: Backbone) -> Iterator[list[FeatureCache]]:
    found = open_caches(caches, backbone)
    yield found
    for cache in found:
        cache.close()
