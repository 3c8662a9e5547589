from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_fakes import FakeBackbone, make_dataset, make_tasks
from filelock import FileLock

import cptlite.backbones.images
from cptlite.backbones import load_backbone
from cptlite.cache import Fingerprint, list_caches, open_cache, verify_cache
from cptlite.cache.encode import EncodeReport, encode_dataset
from cptlite.cache.layers import before_projection
from cptlite.cache.parts import PartStore
from cptlite.datasets.images import open_rgb, plain_view, random_view
from cptlite.datasets.types import SPLITS, Dataset, Rows
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError, DataError, UsageError

SETTINGS: dict[str, Any] = {"batch_size": 4, "part_rows": 8, "workers": 0}
VIEWS = ViewConfig(views=3, seed=2)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "images")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Draw a dataset of several parts of 128 rows."""
    return make_dataset(tmp_path_factory.mktemp("large") / "images", sizes=(330, 7, 140))


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def encode(dataset: Dataset, cache_dir: Path, backbone: Any = None, **settings: Any) -> EncodeReport:
    return encode_dataset(dataset, backbone or FakeBackbone(), cache_dir, **{**SETTINGS, **settings})


def held(path: Path) -> list:
    with open_cache(path) as cache:
        arrays = (
            (cache.features(split).tobytes(), cache.labels(split).tobytes(), cache.row_tasks(split).tobytes())
            for split in SPLITS
        )
        local = [cache.patches(split).tobytes() for split in SPLITS] if cache.fingerprint.local else []
        return [*arrays, [cache.paths(split) for split in SPLITS], cache.tasks, cache.fingerprint, *local]


def hidden(cache_dir: Path) -> list[str]:
    """What lies in the cache folder beside files, locks left out."""
    names = (path.name for path in cache_dir.glob("*/.*"))
    return sorted(name for name in names if not name.endswith(".lock"))


def test_every_view_is_that_of_its_image(dataset: Dataset, cache_dir: Path) -> None:
    backbone = FakeBackbone()
    report = encode(dataset, cache_dir, backbone, views=VIEWS, dtype="float32")
    assert report.complete and not report.complete_already
    assert (report.rows, report.encoded_rows, report.resumed_rows, report.bad) == (37, 37, 0, ())
    assert report.path == cache_dir / "fake-one" / "drawn.h5"
    verify_cache(report.path)
    with open_cache(report.path) as cache:
        assert cache.tasks == dataset.tasks
        for split in SPLITS:
            rows = dataset.splits[split]
            assert cache.paths(split) == rows.paths
            assert np.array_equal(cache.labels(split), rows.labels)
            assert np.array_equal(cache.row_tasks(split), rows.tasks)
            features = torch.from_numpy(cache.features(split))
            assert features.shape == (len(rows), 3 if split == "train" else 1, 8)
            for row, path in enumerate(rows.paths):
                image = open_rgb(dataset.image_root / path)
                views = [plain_view(image, backbone.preprocess_spec)]
                for view in range(1, features.shape[1]):
                    views.append(random_view(image, backbone.preprocess_spec, key=path, view=view, views=VIEWS))
                torch.testing.assert_close(features[row], backbone.encode_images(torch.stack(views)))


@pytest.mark.slow
def test_same_bytes_however_many_workers_and_parts(dataset: Dataset, cache_dir: Path) -> None:
    first = held(encode(dataset, cache_dir / "0", views=VIEWS).path)
    for number, settings in enumerate([{"workers": 1}, {"workers": 5}, {"workers": None}, {"part_rows": 12}], 1):
        assert held(encode(dataset, cache_dir / f"{number}", views=VIEWS, **settings).path) == first


def test_reading_ahead_changes_nothing(dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = held(encode(dataset, cache_dir / "0").path)
    monkeypatch.setattr(cptlite.backbones.images, "PREFETCH", {"cpu": 3})
    assert held(encode(dataset, cache_dir / "1", workers=2).path) == first


def test_views_of_an_image_do_not_depend_on_the_other_rows(dataset: Dataset, cache_dir: Path) -> None:
    """Rows in another order, and fewer of them: the same features for the same paths."""
    train = dataset.splits["train"]
    order = [7, 3, 20, 0]
    some = Rows(paths=tuple(train.paths[row] for row in order), labels=train.labels[order], tasks=train.tasks[order])
    other = replace(dataset, splits={**dataset.splits, "train": some})
    with (
        open_cache(encode(dataset, cache_dir / "0", views=VIEWS).path) as whole,
        open_cache(encode(other, cache_dir / "1", views=VIEWS, batch_size=7).path) as part,
    ):
        np.testing.assert_allclose(part.features("train"), whole.features("train", rows=order), rtol=2e-3, atol=2e-3)


def test_batches_hold_as_many_images_as_asked_for(dataset: Dataset, cache_dir: Path) -> None:
    backbone = FakeBackbone()
    encode(dataset, cache_dir, backbone, views=VIEWS, batch_size=7, part_rows=10)
    # Two rows of three views each fit into 7; parts of 10, 10 and 1 rows; then 6 and 10 rows of one view.
    assert backbone.batches == [6] * 10 + [3] + [6] + [7, 3]


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [
        (64, [64] * 5 + [10] + [7] + [64, 64, 12]),  # the default: parts are whole batches
        (100, [100, 28] * 2 + [74] + [7] + [100, 28, 12]),  # a batch that fits into a part of 128 rows ends with it
        (128, [128, 128, 74] + [7] + [128, 12]),
        (129, [129, 129, 72] + [7] + [129, 11]),
        (300, [300, 30] + [7] + [140]),
    ],
)
def test_a_large_batch_is_one(large: Dataset, cache_dir: Path, batch_size: int, sizes: list[int]) -> None:
    backbone = FakeBackbone()
    report = encode(large, cache_dir, backbone, batch_size=batch_size, part_rows=128)
    assert backbone.batches == sizes and report.encoded_rows == 477


def test_a_large_batch_of_views_is_one(large: Dataset, cache_dir: Path) -> None:
    backbone = FakeBackbone()
    encode(large, cache_dir, backbone, views=ViewConfig(views=2), batch_size=300, part_rows=128)
    assert backbone.batches == [300, 300, 60] + [7] + [140]


class ShapedBackbone(FakeBackbone):
    """Rounds by the shape of its batch, as matrix products do, but far more coarsely."""

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode_images(images) * (1 + len(images) / 1000)


@pytest.mark.parametrize("batch_size", [1, 100, 128, 300])
@pytest.mark.parametrize(("views", "patches"), [(ViewConfig(), True), (ViewConfig(views=2), False)])
def test_a_stopped_pass_of_any_batch_size_ends_with_the_same_bytes(
    large: Dataset, cache_dir: Path, batch_size: int, views: ViewConfig, patches: bool
) -> None:
    wanted: dict[str, Any] = {"views": views, "patches": patches, "batch_size": batch_size, "part_rows": 128}
    undisturbed = ShapedBackbone()
    first = held(encode(large, cache_dir / "0", undisturbed, **wanted).path)
    batches = len(undisturbed.batches)
    resumed = set()
    for number in sorted({1, batches // 3, batches // 2, batches - 1}):
        folder = cache_dir / f"after {number}"
        interrupt(large, folder, number, backbone=ShapedBackbone(), **wanted)
        report = encode(large, folder, ShapedBackbone(), **wanted)
        assert report.resumed_rows + report.encoded_rows == 477
        assert held(report.path) == first
        resumed.add(report.resumed_rows)
    assert max(resumed) >= 256


def test_progress_is_told_after_every_batch(dataset: Dataset, cache_dir: Path) -> None:
    told: list[tuple[int, int, str]] = []
    encode(dataset, cache_dir, on_progress=lambda *news: told.append(news))
    assert told[0] == (0, 37, "train") and told[-1] == (37, 37, "test")
    assert [done for done, _, _ in told] == [0, 4, 8, 12, 16, 20, 21, 25, 27, 31, 35, 37]


def test_a_complete_file_is_left_alone(dataset: Dataset, cache_dir: Path) -> None:
    path = encode(dataset, cache_dir).path
    before = path.read_bytes()
    shutil.rmtree(dataset.image_root)
    backbone, told = FakeBackbone(), []
    report = encode(dataset, cache_dir, backbone, on_progress=lambda *news: told.append(news))
    assert report.complete and report.complete_already and report.rows == 37 and report.encoded_rows == 0
    assert not backbone.batches and not told
    assert path.read_bytes() == before and hidden(cache_dir) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"views": VIEWS}, "views is 1 there, 3 asked"),
        ({"dtype": "float32"}, "dtype is 'float16' there, 'float32' asked"),
        ({"patches": True}, "local is 0 there, 3 asked"),
        ({"backbone": FakeBackbone(weights_sha256="f" * 64)}, "weights_sha256 is .*there, ffffffffffff... asked"),
        ({"backbone": FakeBackbone(precision="bf16")}, "precision is 'float32' there, 'bf16' asked"),
    ],
)
def test_another_file_is_neither_used_nor_replaced(dataset: Dataset, cache_dir: Path, change: dict, field: str) -> None:
    path = encode(dataset, cache_dir).path
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"{field}.*--cache-dir.*--force"):
        encode(dataset, cache_dir, **change)
    assert path.read_bytes() == before
    report = encode(dataset, cache_dir, **change, force=True)
    assert report.encoded_rows == 37 and not report.complete_already
    assert held(path) == held(encode(dataset, cache_dir / "anew", **change).path)


@pytest.mark.parametrize("views", [ViewConfig(), VIEWS])
def test_local_features_are_those_of_the_plain_view(dataset: Dataset, cache_dir: Path, views: ViewConfig) -> None:
    report = encode(dataset, cache_dir, views=views, patches=True, dtype="float32")
    verify_cache(report.path)
    with open_cache(report.path) as cache:
        for split in SPLITS:
            plain, local = cache.features(split, views=0), cache.patches(split)
            assert local.shape == (len(dataset.splits[split]), 3, 8) and local.dtype == np.float32
            assert np.array_equal(local, plain * np.arange(1, 4, dtype=np.float32)[:, None])
    assert held(report.path)[:5] == held(encode(dataset, cache_dir / "0", views=views, dtype="float32").path)[:5]


def test_a_file_with_local_features_serves_a_request_without(dataset: Dataset, cache_dir: Path) -> None:
    path = encode(dataset, cache_dir, patches=True).path
    before, backbone = path.read_bytes(), FakeBackbone()
    assert encode(dataset, cache_dir, backbone).complete_already and not backbone.batches
    assert path.read_bytes() == before
    assert list_caches(cache_dir)[0].local == 3


def test_no_more_than_a_part_of_local_features_is_held(
    dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block that the writer takes is gone before the next is read."""
    taken: list[weakref.ref] = []
    blocks = PartStore.blocks

    def watched(self: PartStore, split: str, name: str, encoded: np.ndarray) -> Iterator[np.ndarray]:
        for values in blocks(self, split, name, encoded):
            assert [one for one in taken[:-1] if one() is not None] == []
            taken.append(weakref.ref(values))
            yield values
            del values

    monkeypatch.setattr(PartStore, "blocks", watched)
    encode(dataset, cache_dir, patches=True)
    assert len(taken) == 2 * 6  # parts of 8 rows: 3, 1 and 2 of them


def test_other_rows_are_another_dataset(dataset: Dataset, cache_dir: Path) -> None:
    encode(dataset, cache_dir)
    train = dataset.splits["train"]
    relabelled = replace(train, labels=(train.labels + 1) % 3)
    with pytest.raises(DataError, match="split_sha256"):
        encode(replace(dataset, splits={**dataset.splits, "train": relabelled}), cache_dir)


def test_settings_of_random_views_do_not_matter_without_any(dataset: Dataset, cache_dir: Path) -> None:
    encode(dataset, cache_dir)
    assert encode(dataset, cache_dir, views=ViewConfig(seed=9, min_scale=0.5, flip=False)).complete_already


def test_other_words_are_brought_up_to_date(dataset: Dataset, cache_dir: Path) -> None:
    before = held(encode(dataset, cache_dir).path)
    reworded = replace(dataset, tasks=make_tasks(template="{}, cut out of paper."))
    backbone = FakeBackbone()
    report = encode(reworded, cache_dir, backbone)
    assert report.complete_already and report.words_replaced and not backbone.batches
    after = held(report.path)
    assert after[4] == reworded.tasks
    assert before[:4] + before[5:] == after[:4] + after[5:]
    assert not encode(reworded, cache_dir).words_replaced


@pytest.mark.parametrize("content", [b"", b"not HDF5"])
def test_foreign_files_are_replaced_only_by_force(dataset: Dataset, cache_dir: Path, content: bytes) -> None:
    path = cache_dir / "fake-one" / "drawn.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        encode(dataset, cache_dir)
    assert path.read_bytes() == content
    assert encode(dataset, cache_dir, force=True).complete
    verify_cache(path)


class Interrupted(Exception):
    pass


def interrupt(
    dataset: Dataset, cache_dir: Path, batches: int, error: type[BaseException] = Interrupted, **settings: Any
) -> None:
    """Run a pass that ends after a number of batches."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == batches + 1:
            raise error

    with pytest.raises(error):
        encode(dataset, cache_dir, on_progress=count, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(("error", "workers"), [(Interrupted, 0), (KeyboardInterrupt, 2)])
@pytest.mark.parametrize(("views", "patches"), [(ViewConfig(), False), (VIEWS, False), (VIEWS, True)])
def test_an_interrupted_pass_goes_on(
    dataset: Dataset, cache_dir: Path, error: type[BaseException], workers: int, views: ViewConfig, patches: bool
) -> None:
    wanted: dict[str, Any] = {"views": views, "patches": patches}
    interrupt(dataset, cache_dir, 5 if views.views == 1 else 20, error, workers=workers, **wanted)
    [unfinished] = list_caches(cache_dir)
    finished = sum(unfinished.rows.values())
    assert not unfinished.complete and unfinished.dataset == "drawn" and finished > 0
    told: list[int] = []
    report = encode(dataset, cache_dir, workers=workers, on_progress=lambda done, *_: told.append(done), **wanted)
    assert report.resumed_rows == finished == told[0]
    assert report.encoded_rows == 37 - finished
    assert held(report.path) == held(encode(dataset, cache_dir / "anew", **wanted).path)
    assert hidden(cache_dir) == []


def test_parts_of_another_pass_are_not_mixed_in(dataset: Dataset, cache_dir: Path) -> None:
    interrupt(dataset, cache_dir, 5)
    backbone = FakeBackbone(weights_sha256="f" * 64, scale=3.0)
    report = encode(dataset, cache_dir, backbone)
    assert report.resumed_rows == 0
    assert held(report.path)[:3] == held(encode(dataset, cache_dir / "anew", backbone).path)[:3]
    # The other pass can still go on, elsewhere or by force; its parts are listed until then.
    assert [summary.complete for summary in list_caches(cache_dir)] == [True, False]


def test_force_takes_no_earlier_parts(dataset: Dataset, cache_dir: Path) -> None:
    interrupt(dataset, cache_dir, 5)
    report = encode(dataset, cache_dir, force=True)
    assert report.resumed_rows == 0 and report.encoded_rows == 37
    interrupt(dataset, cache_dir, 5, force=True)
    assert encode(dataset, cache_dir, force=True).resumed_rows > 0


def test_leftovers_of_killed_passes_go(dataset: Dataset, cache_dir: Path) -> None:
    folder = cache_dir / "fake-one"
    folder.mkdir(parents=True)
    (folder / ".drawn.h5.123.tmp").write_bytes(b"half a file")
    (folder / ".other.h5.123.tmp").write_bytes(b"of another process")
    interrupt(dataset, cache_dir, 5)
    parts = next(folder.glob(".drawn.h5.parts-*"))
    (parts / ".train-000001.npz.123.tmp").write_bytes(b"half a part")
    copy = shutil.copytree(parts, cache_dir.parent / "copy")
    encode(dataset, cache_dir)
    assert hidden(cache_dir) == [".other.h5.123.tmp"]
    shutil.move(copy, parts)  # as if killed after the file was there, before its parts were deleted
    assert encode(dataset, cache_dir).complete_already
    assert hidden(cache_dir) == [".other.h5.123.tmp"]


def test_a_damaged_part_is_encoded_again(dataset: Dataset, cache_dir: Path) -> None:
    interrupt(dataset, cache_dir, 5)
    part = next(cache_dir.glob("*/.*/train-000000.npz"))
    part.write_bytes(part.read_bytes()[:100])
    report = encode(dataset, cache_dir)
    assert report.resumed_rows == 8 and report.encoded_rows == 29
    assert held(report.path) == held(encode(dataset, cache_dir / "anew").path)


def spoil(dataset: Dataset) -> dict[str, bytes]:
    """Make four images unreadable; the contents they had, by path."""
    spoiled = {
        dataset.splits["train"].paths[0]: (b"", "zero bytes"),
        dataset.splits["train"].paths[10]: (b"<html>", "not an image"),
        dataset.splits["val"].paths[1]: (None, "missing"),
        dataset.splits["test"].paths[9]: (50, "truncated"),
    }
    contents = {}
    for path, (content, _) in spoiled.items():
        file = dataset.image_root / path
        contents[path] = file.read_bytes()
        if content is None:
            file.unlink()
        else:
            file.write_bytes(contents[path][:-content] if isinstance(content, int) else content)
    return contents


@pytest.mark.parametrize("batch_size", [4, 50])  # within a part of 8 rows, and over several
@pytest.mark.parametrize(("workers", "views", "patches"), [(0, ViewConfig(), False), (2, VIEWS, True)])
def test_unreadable_images_are_listed_and_nothing_is_written(
    dataset: Dataset, cache_dir: Path, workers: int, views: ViewConfig, patches: bool, batch_size: int
) -> None:
    wanted: dict[str, Any] = {"views": views, "patches": patches, "workers": workers, "batch_size": batch_size}
    undisturbed = held(encode(dataset, cache_dir / "anew", **wanted).path)
    contents = spoil(dataset)
    told: list[int] = []
    report = encode(dataset, cache_dir, on_progress=lambda done, *_: told.append(done), **wanted)
    assert not report.complete and not report.path.exists()
    assert (report.rows, report.encoded_rows) == (37, 33) and told[-1] == 37
    train, val, test = (dataset.splits[split].paths for split in SPLITS)
    assert [bad[:2] for bad in report.bad] == [
        ("train", train[0]), ("train", train[10]), ("val", val[1]), ("test", test[9])
    ]  # fmt: skip
    for bad, words in zip(report.bad, ["zero bytes", "not an image", "missing", "truncated"], strict=True):
        assert bad.reason.startswith(words)
    again = encode(dataset, cache_dir, **wanted)
    assert (again.complete, again.resumed_rows, again.encoded_rows) == (False, 33, 0)
    assert again.bad == report.bad
    for path, content in contents.items():
        (dataset.image_root / path).write_bytes(content)
    mended = encode(dataset, cache_dir, **wanted)
    assert (mended.complete, mended.resumed_rows, mended.encoded_rows, mended.bad) == (True, 33, 4, ())
    assert held(mended.path) == undisturbed


def test_unreadable_images_are_left_out_on_request(dataset: Dataset, cache_dir: Path) -> None:
    whole = encode(dataset, cache_dir / "anew", patches=True).path
    spoil(dataset)
    encode(dataset, cache_dir, patches=True)
    report = encode(dataset, cache_dir, patches=True, skip_bad=True)
    assert report.complete and report.encoded_rows == 0 and len(report.bad) == 4
    verify_cache(report.path)
    with open_cache(report.path) as cache, open_cache(whole) as all_rows:
        assert cache.attributes["bad_images"] == 4 and cache.bad == report.bad
        gone = {"train": [0, 10], "val": [1], "test": [9]}
        for split in SPLITS:
            kept = np.delete(np.arange(all_rows.num_rows(split)), gone[split])
            assert np.array_equal(cache.features(split), all_rows.features(split, rows=kept))
            assert np.array_equal(cache.patches(split), all_rows.patches(split, rows=kept))
            assert np.array_equal(cache.labels(split), all_rows.labels(split)[kept])
            assert np.array_equal(cache.row_tasks(split), all_rows.row_tasks(split)[kept])
            assert list(cache.paths(split)) == [all_rows.paths(split)[row] for row in kept]
    later = encode(dataset, cache_dir, patches=True)
    assert later.complete_already and later.bad == report.bad
    assert list_caches(cache_dir)[-1].bad_images == 4


def test_no_readable_image_at_all(dataset: Dataset, cache_dir: Path) -> None:
    for path in dataset.image_root.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"wanted 37 images of drawn under .*\(the first, .*: zero bytes\): check --root"
    ):
        encode(dataset, cache_dir, skip_bad=True)
    assert hidden(cache_dir) == []


def test_no_image_folder(dataset: Dataset, cache_dir: Path) -> None:
    with pytest.raises(DataError, match=r"in the folder .*elsewhere, which is not there"):
        encode(replace(dataset, image_root=dataset.image_root / "elsewhere"), cache_dir)


def test_a_dataset_without_rows(cache_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        encode(make_dataset(tmp_path / "images", sizes=(0, 0, 0)), cache_dir)


def test_a_dataset_of_test_rows_alone(cache_dir: Path, tmp_path: Path) -> None:
    with open_cache(encode(make_dataset(tmp_path / "images", sizes=(0, 0, 3)), cache_dir).path) as cache:
        assert [cache.features(split).shape for split in SPLITS] == [(0, 1, 8), (0, 1, 8), (3, 1, 8)]


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"batch_size": 0}, {"part_rows": 0}, {"workers": -1}])
def test_settings_are_checked(dataset: Dataset, cache_dir: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match="got"):
        encode(dataset, cache_dir, **wrong)


def test_features_that_do_not_fit_the_number_type(dataset: Dataset, cache_dir: Path) -> None:
    with pytest.raises(CptliteError, match=r"features of train/.* are not finite in float16.*--dtype float32"):
        encode(dataset, cache_dir, FakeBackbone(scale=1e6))
    assert encode(dataset, cache_dir, FakeBackbone(scale=1e6), dtype="float32").complete


def test_one_writer_at_a_time(dataset: Dataset, cache_dir: Path) -> None:
    (cache_dir / "fake-one").mkdir(parents=True)
    with FileLock(cache_dir / "fake-one" / ".drawn.h5.lock"):
        with pytest.raises(CptliteError, match=r"another process is writing .*drawn\.h5") as caught:
            encode(dataset, cache_dir)
        assert caught.value.exit_code == 1
    path = encode(dataset, cache_dir).path
    with FileLock(path.with_name(".drawn.h5.lock")):  # readers are unhindered
        assert encode(dataset, cache_dir).complete_already
        open_cache(path).close()


def test_a_file_made_meanwhile_is_used(dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encode(dataset, cache_dir / "anew").path
    existing = cptlite.cache.encode._existing
    looks = 0

    def look(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            shutil.copy(made, cache_dir / "fake-one" / "drawn.h5")
        return existing(*arguments)

    monkeypatch.setattr(cptlite.cache.encode, "_existing", look)
    assert encode(dataset, cache_dir).complete_already


def test_a_file_where_the_folder_should_be(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*--cache-dir"):
        encode(dataset, tmp_path / "file")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Step down from root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """Let an ordinary user pass to tmp_path."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_that_may_only_be_read(open_folder: Path, request: pytest.FixtureRequest) -> None:
    dataset = make_dataset(open_folder / "images")
    path = encode(dataset, open_folder / "cache").path
    (open_folder / "empty").mkdir(mode=0o555)
    path.parent.chmod(0o555)
    request.getfixturevalue("ordinary_user")
    assert encode(dataset, open_folder / "cache").complete_already
    other = replace(dataset, name="other")
    for cache_dir in (open_folder / "cache", open_folder / "empty"):
        with pytest.raises(DataError, match=r"cannot write to .*--cache-dir") as caught:
            encode(other, cache_dir)
        assert caught.value.exit_code == 3


def test_too_little_space_is_told_before_the_work(
    dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    backbone = FakeBackbone(embed_dim=2**18)  # half a MiB each, twice: for the parts and for the file
    for local, mib in ((False, 37), (True, 4 * 37)):
        with pytest.raises(CptliteError, match=rf"takes up to {mib} MiB in .* are free"):
            encode(dataset, cache_dir, backbone, patches=local)
    assert not backbone.batches


FALLOCATE = pytest.param(
    "posix_fallocate", 1, 37, marks=pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="POSIX")
)


@pytest.mark.parametrize(("call", "number", "resumed"), [("fsync", 4, 16), FALLOCATE])
def test_a_full_disk_keeps_what_is_done(
    dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, resumed: int
) -> None:
    original, calls = getattr(os, call), 0

    def fill(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fill)
        with pytest.raises(CptliteError, match=r"no space left in .*run the same command again") as caught:
            encode(dataset, cache_dir)
    assert caught.value.exit_code == 1
    report = encode(dataset, cache_dir)
    assert report.resumed_rows == resumed
    assert held(report.path) == held(encode(dataset, cache_dir / "anew").path)


def test_out_of_gpu_memory(dataset: Dataset, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FakeBackbone, images: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("too much")

    monkeypatch.setattr(FakeBackbone, "encode_images", fail)
    with pytest.raises(CptliteError, match="smaller --batch-size"):
        encode(dataset, cache_dir)


@pytest.mark.slow
def test_a_real_backbone(dataset: Dataset, cache_dir: Path) -> None:
    backbone = load_backbone("random:demo", device="cpu")
    report = encode(dataset, cache_dir, backbone, views=VIEWS, batch_size=16, part_rows=64)
    with open_cache(report.path) as cache:
        assert cache.features("train").shape == (21, 3, backbone.embed_dim)
        assert cache.attributes["backbone"] == "random:demo" and cache.attributes["device"] == "cpu"
        image = open_rgb(dataset.image_root / cache.paths("test")[4])
        expected = backbone.encode_images(plain_view(image, backbone.preprocess_spec)[None])
        np.testing.assert_allclose(cache.features("test", rows=[4])[0], expected, rtol=2e-3, atol=2e-3)
    assert encode(dataset, cache_dir, backbone, views=VIEWS).complete_already
    other = load_backbone("random:demo:1", device="cpu")
    assert not encode(dataset, cache_dir, other).complete_already
    with pytest.raises(DataError, match=r"backbone is 'random:demo' there, 'random:demo:1' asked; weights_sha256"):
        open_cache(report.path, Fingerprint.of_pass(dataset, other, VIEWS, "float16"))


@pytest.mark.parametrize("patches", [False, True])
def test_features_before_the_projection_are_those_of_every_view(
    dataset: Dataset, cache_dir: Path, patches: bool
) -> None:
    """The pooled ones beside them are the same to the bit."""
    plain = encode(dataset, cache_dir / "plain", views=VIEWS, patches=patches).path
    path = encode(dataset, cache_dir, views=VIEWS, patches=patches, pre_projection=True).path
    with open_cache(path) as cache, open_cache(plain) as without:
        [before] = before_projection([cache])
        for split in SPLITS:
            pooled = cache.features(split)
            assert np.array_equal(pooled, without.features(split))
            assert before.features(split).shape == (*pooled.shape[:2], pooled.shape[2] + 2)
            assert np.array_equal(before.features(split)[..., :-2], pooled)
            assert not patches or np.array_equal(cache.patches(split), without.patches(split))
    assert encode(dataset, cache_dir, views=VIEWS).complete_already, "who asks for pooled ones has them"
    with pytest.raises(DataError, match="pre_projection is 0 there"):
        encode(dataset, cache_dir / "plain", views=VIEWS, pre_projection=True)
