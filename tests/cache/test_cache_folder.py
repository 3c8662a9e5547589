"""Tests of cptlite.cache.folder: each file is opened once, whoever looks and reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import pytest
from cache_fakes import FakeBackbone, make_dataset
from typer.testing import CliRunner

import cptlite.cache.folder
from cptlite.backbones import Backbone
from cptlite.cache import CacheFolder, cache_files, list_caches, open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.errors import DataError

ONE = cast(Backbone, FakeBackbone())
OTHER = cast(Backbone, FakeBackbone(name="fake:[two]", slug="fake-[two]", weights_sha256="2" * 64))
NAMES = ("birds", "cars", "dogs")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold caches of three datasets by one backbone and of two by another."""
    folder = tmp_path_factory.mktemp("folder")
    dataset = make_dataset(folder / "images", sizes=(6, 3, 4))
    for backbone, names in ((ONE, NAMES), (OTHER, NAMES[:2])):
        for name in names:
            encode_dataset(replace(dataset, name=name), backbone, folder / "cache", workers=0)
    return folder / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each file is opened."""
    counts: Counter[str] = Counter()

    class CountedFile(h5py.File):
        def __init__(self, name: Path, *arguments: Any, **options: Any) -> None:
            counts[f"{Path(name).parent.name}/{Path(name).stem}"] += 1
            super().__init__(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", CountedFile)
    return counts


def every(*slugs: str) -> dict[str, int]:
    return {f"{slug}/{name}": 1 for slug in slugs for name in (NAMES if slug == ONE.slug else NAMES[:2])}


def test_looking_and_reading_opens_each_file_once(cache_dir: Path, opened: Counter[str]) -> None:
    with CacheFolder(cache_dir) as folder:
        assert [summary.dataset for summary in folder.summaries] == [*NAMES[:2], *NAMES]
        caches = folder.open(ONE, ["dogs", "birds"])
        assert [cache.fingerprint.dataset for cache in caches] == ["dogs", "birds"]
        assert [cache.features("test").shape for cache in caches] == [(4, 1, 8)] * 2
        assert folder.open(ONE, ["dogs", "birds"]) == caches
    assert opened == every(ONE.slug, OTHER.slug)
    assert not any(cache.file for cache in caches)


def test_what_is_not_wanted_is_closed(cache_dir: Path) -> None:
    with CacheFolder(cache_dir) as folder:
        everything = [*folder.open(ONE), *CacheFolder(cache_dir).open(OTHER)]
        kept = folder.open(ONE, ["cars"])
        assert [bool(cache.file) for cache in everything[:3]] == [False, True, False] and kept == everything[1:2]
        assert all(cache.file for cache in everything[3:])  # those of another CacheFolder
    for cache in everything:
        cache.close()


def test_named_datasets_are_opened_without_looking_at_others(cache_dir: Path, opened: Counter[str]) -> None:
    for cache in open_caches(cache_dir, ONE, ["cars"]):
        assert cache.file
        cache.close()
    assert opened == {f"{ONE.slug}/cars": 1}


def test_all_of_a_backbone_are_opened_without_looking_at_others(cache_dir: Path, opened: Counter[str]) -> None:
    caches = open_caches(cache_dir, OTHER)
    assert [cache.fingerprint.dataset for cache in caches] == ["birds", "cars"] and all(cache.file for cache in caches)
    assert opened == every(OTHER.slug)
    for cache in caches:
        cache.close()


def test_a_refusal_leaves_nothing_open(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[h5py.File] = []
    open_cache = cptlite.cache.folder.open_cache

    def noted(path: Path) -> Any:
        cache = open_cache(path)
        files.append(cache.file)
        return cache

    monkeypatch.setattr(cptlite.cache.folder, "open_cache", noted)
    with pytest.raises(DataError, match=r"no feature cache at .*fish\.h5"):
        open_caches(cache_dir, ONE, ["birds", "fish"])
    changed = cast(Backbone, FakeBackbone(weights_sha256="3" * 64))
    with pytest.raises(DataError, match="weights_sha256"):
        open_caches(cache_dir, changed)
    assert len(files) == 1 + 3 and not any(files)


def test_few_files_are_open_at_a_time(cache_dir: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cptlite.cache.folder, "MAX_OPEN", 3)
    with CacheFolder(cache_dir) as folder:
        assert len(folder.summaries) == 5
        assert [cache.fingerprint.dataset for cache in folder.open(ONE)] == list(NAMES)
    assert opened == {**every(ONE.slug, OTHER.slug), f"{ONE.slug}/cars": 2, f"{ONE.slug}/dogs": 2}


def test_listing_opens_each_file_once(cache_dir: Path, opened: Counter[str]) -> None:
    assert len(list_caches(cache_dir)) == 5
    assert opened == every(ONE.slug, OTHER.slug)


@pytest.mark.parametrize("command", ["caches", "verify"])
def test_commands_open_each_file_once(cache_dir: Path, opened: Counter[str], command: str) -> None:
    done = CliRunner().invoke(app, [command, "--cache-dir", str(cache_dir)])
    assert done.exit_code == 0, done.output
    assert opened == every(ONE.slug, OTHER.slug)


def test_files_are_found_unopened(cache_dir: Path, opened: Counter[str]) -> None:
    assert [path.stem for path in cache_files(cache_dir)] == [*NAMES[:2], *NAMES]
    assert cache_files(cache_dir, OTHER.slug) == [cache_dir / OTHER.slug / f"{name}.h5" for name in NAMES[:2]]
    assert not opened


def test_a_file_that_lacks_what_is_listed_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    path = encode_dataset(make_dataset(tmp_path / "images", sizes=(2, 0, 2)), ONE, tmp_path / "cache").path
    with h5py.File(path, "r+") as file:
        del file.attrs["bad_images"]
    [summary] = list_caches(tmp_path / "cache")
    assert not summary.complete and "damaged" in summary.problem and "bad_images" in summary.problem
