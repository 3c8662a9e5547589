from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_fakes import make_tasks

from cptlite.cache import BadImage, Fingerprint, cache_path, list_caches, open_cache, verify_cache
from cptlite.cache.format import SCHEMA_VERSION, differences, task_key, write_dataset
from cptlite.cache.layers import before_projection
from cptlite.cache.parts import PartStore
from cptlite.cache.write import SplitContent, replace_words, write_cache
from cptlite.datasets.types import SPLITS, Task
from cptlite.errors import CptliteError, DataError

FINGERPRINT = Fingerprint(
    dataset="drawn",
    split_sha256="a" * 64,
    backbone="ViT-B/32",
    weights_sha256="b" * 64,
    preprocess='{"resize": 224}',
    views=2,
    view_seed=0,
    min_scale=0.08,
    flip=True,
)
SIZES = {"train": 1000, "val": 0, "test": 7}
BAD = (BadImage("train", "é/x.jpg", "missing"), BadImage("test", "y.jpg", "truncated (3 bytes left)"))


WITH_LOCAL = replace(FINGERPRINT, local=5)


def local_of(split: str) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SIZES[split], 5, 32)).astype(np.float16)


def pre_of(split: str) -> np.ndarray:
    views = 2 if split == "train" else 1
    return np.random.default_rng(2).normal(size=(SIZES[split], views, 9)).astype(np.float16)


def contents(width: int = 32) -> dict[str, SplitContent]:
    draw = np.random.default_rng(0)
    splits = {}
    for split, rows in SIZES.items():
        views = 2 if split == "train" else 1
        features = draw.normal(size=(rows, views, width)).astype(np.float16)
        splits[split] = SplitContent(
            labels=np.arange(rows, dtype=np.int32) % 3,
            tasks=np.arange(rows, dtype=np.int32) % 2,
            paths=[f"{split}/草莓 {row}.jpg" for row in range(rows)],
            shape=features.shape,
            blocks=iter(np.array_split(features, 5)),
            patch_blocks=iter(np.array_split(local_of(split), 3)),
            pre_blocks=iter(np.array_split(pre_of(split), 4)),
        )
    return splits


def write(path: Path, fingerprint: Fingerprint = FINGERPRINT, tasks: tuple[Task, ...] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch_version": "2", "clip_version": "1", "device": "cpu"}
    write_cache(path, fingerprint=fingerprint, tasks=tasks or make_tasks(), splits=contents(), facts=facts, bad=BAD)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(cache_path(tmp_path, "ViT-B-32", "drawn"))


def snapshot(path: Path) -> list:
    """Everything a reader can get out of a file."""
    with open_cache(path) as cache:
        arrays = [
            [cache.features(split).tobytes(), cache.labels(split).tobytes(), cache.row_tasks(split).tobytes()]
            for split in SPLITS
        ]
        return [arrays, [cache.paths(split) for split in SPLITS], cache.tasks, cache.attributes, cache.bad]


def test_what_is_written_is_read(path: Path) -> None:
    with open_cache(path, FINGERPRINT) as cache:
        assert cache.fingerprint == FINGERPRINT
        assert cache.tasks == make_tasks()
        assert cache.bad == BAD
        for split, content in contents().items():
            features = np.concatenate(list(content.blocks))
            assert cache.num_rows(split) == SIZES[split] == len(features)
            assert cache.features(split).dtype == np.float16
            assert np.array_equal(cache.features(split), features)
            assert np.array_equal(cache.labels(split), content.labels) and cache.labels(split).dtype == np.int32
            assert np.array_equal(cache.row_tasks(split), content.tasks) and cache.row_tasks(split).dtype == np.int32
            assert list(cache.paths(split)) == content.paths


@pytest.fixture
def local_path(tmp_path: Path) -> Path:
    return write(cache_path(tmp_path, "ViT-B-32", "drawn"), WITH_LOCAL)


def test_local_features_are_read_beside_the_pooled_ones(local_path: Path, tmp_path: Path) -> None:
    with open_cache(local_path, WITH_LOCAL) as cache, open_cache(write(tmp_path / "plain.h5")) as plain:
        assert cache.fingerprint.local == 5
        for split in SPLITS:
            assert np.array_equal(cache.patches(split), local_of(split))
            assert np.array_equal(cache.features(split), plain.features(split))
        rows = [999, 0, 511, 3, 0]
        assert np.array_equal(cache.patches("train", rows=rows), local_of("train")[rows])
        assert cache.patches("train", rows=[]).shape == (0, 5, 32)
        with pytest.raises(
            DataError, match=r"wanted patch features .* without them: .*--patches --force --dataset drawn"
        ) as caught:
            plain.patches("train")
        assert caught.value.exit_code == 3
        assert "local" not in plain.file["train"]
    verify_cache(local_path)


def test_features_before_the_projection_are_read_in_place_of_those_behind(tmp_path: Path) -> None:
    path, asked = tmp_path / "pre.h5", replace(FINGERPRINT, pre_projection=9)
    write(path, asked)
    verify_cache(path)
    with open_cache(path, asked) as cache:
        [before] = before_projection([cache])
        for split in SPLITS:
            assert np.array_equal(before.features(split), pre_of(split))
        assert np.array_equal(before.features("train", rows=[4, 0], views=1), pre_of("train")[[4, 0], 1:2])
        assert cache.features("train").shape[-1] == 32, "the cache itself is as it was"
        assert before.fingerprint.of_pooled() == FINGERPRINT.of_pooled()
    for other in (FINGERPRINT, {"pre_projection": 9}):
        open_cache(path, other).close()
    with pytest.raises(DataError, match="pre_projection is 9 there, 8 asked"):
        open_cache(path, replace(FINGERPRINT, pre_projection=8))
    with h5py.File(path, "r+") as file:
        del file["val/pre"]
    with pytest.raises(DataError, match="lacks .*'pre'"):
        verify_cache(path)


def test_a_cache_without_them_says_how_to_make_them(tmp_path: Path) -> None:
    """One of an earlier version, which says nothing of them, is read as one without."""
    path = write(tmp_path / "plain.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs["pre_projection"]
    with open_cache(path, FINGERPRINT) as cache:
        assert before_projection([cache], False)[0] is cache
        with pytest.raises(DataError, match="without them: .*--pre-projection --force --dataset drawn --backbone"):
            before_projection([cache])


def test_local_features_nobody_asked_for_do_no_harm(local_path: Path, tmp_path: Path) -> None:
    for asked in (FINGERPRINT, {"local": 0}, {"dataset": "drawn"}, WITH_LOCAL, {"local": 5}):
        open_cache(local_path, asked).close()
    with pytest.raises(DataError, match="local is 5 there, 4 asked"):
        open_cache(local_path, replace(FINGERPRINT, local=4))
    with pytest.raises(DataError, match=r"local is 0 there, 5 asked.*cptlite cache --force"):
        open_cache(write(tmp_path / "plain.h5"), WITH_LOCAL)
    assert WITH_LOCAL.of_pooled() == FINGERPRINT.of_pooled() != replace(FINGERPRINT, views=1).of_pooled()


def test_local_features_are_verified(local_path: Path) -> None:
    with h5py.File(local_path) as file:
        place = file["train/local"].id.get_chunk_info(0).byte_offset
    content = local_path.read_bytes()
    local_path.write_bytes(content[: place + 9] + bytes([content[place + 9] ^ 1]) + content[place + 10 :])
    with pytest.raises(DataError, match="damaged"):
        verify_cache(local_path)
    with open_cache(local_path) as cache, pytest.raises(DataError, match="damaged"):
        cache.patches("train")
    local_path.write_bytes(content)
    with h5py.File(local_path, "r+") as file:
        file["test/local"].resize((6, 5, 32))
    with pytest.raises(DataError, match="different numbers"):
        verify_cache(local_path)
    with h5py.File(local_path, "r+") as file:
        del file["test/local"]
        write_dataset(file["test"], "local", (7, 4, 32), np.float16)[:] = 0
    with pytest.raises(DataError, match=r"local.* is of shape \(7, 4, 32\) .* recorded are \(7, 5, 32\)"):
        verify_cache(local_path)
    with h5py.File(local_path, "r+") as file:
        del file["test/local"]
    with pytest.raises(DataError, match="damaged"):
        verify_cache(local_path)


def test_attributes_are_plain_values(path: Path) -> None:
    with open_cache(path) as cache:
        assert {name: type(value) for name, value in cache.attributes.items()} == {
            "schema_version": int,
            "cptlite_version": str,
            **{name: type(value) for name, value in asdict(FINGERPRINT).items()},
            "torch_version": str,
            "clip_version": str,
            "device": str,
            "bad_images": int,
            "created": str,
        }
        assert cache.attributes["bad_images"] == 2


@pytest.mark.parametrize("rows", [[], [3], [5, 5, 2], list(range(1000)), [999, 0, 511, 512, 513, 0]])
def test_rows_in_any_order(path: Path, rows: list[int]) -> None:
    with open_cache(path) as cache:
        whole = cache.features("train")
        assert np.array_equal(cache.features("train", rows=rows), whole[rows].reshape(len(rows), 2, 32))
        assert np.array_equal(
            cache.features("train", rows=np.array(rows), views=1), whole[rows][:, 1:].reshape(-1, 1, 32)
        )
        assert np.array_equal(cache.features("train", rows=rows, views=[1, 0]), whole[rows][:, ::-1].reshape(-1, 2, 32))


@pytest.mark.parametrize("rows", [[-1], [1000]])
def test_rows_out_of_range(path: Path, rows: list[int]) -> None:
    with open_cache(path) as cache, pytest.raises(IndexError, match="1000"):
        cache.features("train", rows=rows)


def test_a_newcomer_reads_it_with_h5py_alone(path: Path) -> None:
    """The example of cache/README.md."""
    with h5py.File(path) as file:
        features = file["train/features"][:, 0].astype("float32")
        labels = file["train/labels"][:]
        paths = file["train/paths"].asstr()[:]
        names = {group.attrs["id"].decode(): group["classnames"].asstr()[:] for group in file["tasks"].values()}
        backbone = file.attrs["backbone"].decode()
    assert features.shape == (1000, 32) and labels.shape == (1000,)
    assert paths[0] == "train/草莓 0.jpg"
    assert backbone == "ViT-B/32"
    assert list(names["drawn/first"]) == list(make_tasks()[0].class_names)


def test_every_dataset_has_checksums(path: Path) -> None:
    datasets: list[h5py.Dataset] = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        assert len(datasets) == 3 * 4 + 2 + 3
        assert all(dataset.fletcher32 for dataset in datasets)


def test_equal_contents_make_equal_files(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.h5")
    (*first, attributes, bad), (*second, other_attributes, other_bad) = snapshot(path), snapshot(other)
    assert first == second and bad == other_bad
    assert {**attributes, "created": ""} == {**other_attributes, "created": ""}


@pytest.mark.parametrize("task_id", ["a/b", "a%2Fb", "..", ".", "50 %", "草莓", "/", "a//b"])
def test_any_task_id_can_be_stored(tmp_path: Path, task_id: str) -> None:
    tasks = (replace(make_tasks()[0], id=task_id), replace(make_tasks()[1], id="a"))
    with open_cache(write(tmp_path / "x.h5", tasks=tasks)) as cache:
        assert cache.tasks == tasks
    assert "/" not in task_key(task_id)


def test_tasks_keep_their_order(tmp_path: Path) -> None:
    tasks = tuple(replace(make_tasks()[0], id=f"{12 - index}") for index in range(12))
    with open_cache(write(tmp_path / "x.h5", tasks=tasks)) as cache:
        assert cache.tasks == tasks


def test_words_are_replaced_and_nothing_else(path: Path) -> None:
    before = snapshot(path)
    replace_words(path, make_tasks(template="{} seen from above."))
    after = snapshot(path)
    assert after[2] == make_tasks(template="{} seen from above.")
    assert before[:2] + before[3:] == after[:2] + after[3:]
    verify_cache(path)


def test_open_files_survive_their_replacement(path: Path) -> None:
    with open_cache(path) as cache:
        whole = cache.features("train")
        write(path, replace(FINGERPRINT, view_seed=5))
        assert np.array_equal(cache.features("train"), whole)
        assert cache.fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("views", 4, ["views is 2 there, 4 asked"]),
        ("dataset", "other", ["'drawn' there", "'other' asked"]),
        ("split_sha256", "c" * 64, ["split_sha256", "aaaaaaaaaaaa... there", "cccccccccccc... asked"]),
        ("min_scale", 0.5, ["min_scale is 0.08 there, 0.5 asked"]),
        ("flip", False, ["flip is True there, False asked"]),
        ("dtype", "float32", ["'float16' there, 'float32' asked"]),
        ("precision", "bf16", ["'float32' there, 'bf16' asked"]),
        ("preprocess", '{"resize": 336}', ["resize"]),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_difference_is_refused_by_name(path: Path, field: str, value: object, shown: list[str], whole: bool) -> None:
    expected: Fingerprint | Mapping = replace(FINGERPRINT, **{field: value}) if whole else {field: value}
    with pytest.raises(DataError) as caught:
        open_cache(path, expected)
    for words in [*shown, str(path), "--force", "--cache-dir"]:
        assert words in str(caught.value)
    assert caught.value.exit_code == 3


def test_every_difference_is_named(path: Path) -> None:
    asked = replace(FINGERPRINT, views=1, weights_sha256="d" * 64, backbone="RN50")
    with pytest.raises(DataError, match=r"(?s)backbone is .*; weights_sha256 is .*; views is "):
        open_cache(path, asked)


def test_the_same_weights_under_another_name_agree(path: Path) -> None:
    open_cache(path, replace(FINGERPRINT, backbone="/models/ViT-B-32.pt")).close()
    open_cache(path, {"weights_sha256": "b" * 64, "backbone": "elsewhere"}).close()
    assert differences(FINGERPRINT, {"backbone": "elsewhere"}) == [("backbone", "ViT-B/32", "elsewhere")]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no feature cache at .*fgvc\.h5.*cptlite cache --dataset fgvc"):
        open_cache(tmp_path / "RN50" / "fgvc.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100, None])
def test_not_hdf5(path: Path, content: bytes | None) -> None:
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(DataError, match=r"cannot be read as HDF5.*delete it"):
        open_cache(path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.h5").mkdir()
    with pytest.raises(DataError, match=r"got a folder: move it away"):
        open_cache(tmp_path / "x.h5")


@pytest.mark.parametrize("attributes", [{}, {"schema_version": SCHEMA_VERSION}])
def test_foreign_hdf5(tmp_path: Path, attributes: dict) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = np.arange(3)
        file.attrs.update(attributes)
    with pytest.raises(DataError, match=r"got another kind of HDF5 file.*move it away"):
        open_cache(tmp_path / "x.h5")


def test_another_schema_version(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(DataError, match=rf"schema version 99, this release of cptlite reads {SCHEMA_VERSION}"):
        open_cache(path)


@pytest.mark.parametrize("attribute", ["views", "weights_sha256"])
def test_a_missing_attribute(path: Path, attribute: str) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
    with pytest.raises(DataError, match=f"damaged.*{attribute}"):
        open_cache(path)


def test_verify_counts_the_chunks(path: Path) -> None:
    assert verify_cache(path) > 10


@pytest.mark.slow
def test_verify_finds_any_flipped_byte(path: Path) -> None:
    """A flipped byte is found, unless nothing that can be read depends on it."""
    content, before = path.read_bytes(), snapshot(path)
    draw = random.Random(0)
    found = 0
    for _ in range(150):
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            verify_cache(path)
        except DataError:
            found += 1
        else:
            assert snapshot(path) == before, f"byte {place}"
    assert found > 100


def test_damaged_features_are_not_read_silently(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["train/features"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 17] ^= 1
    path.write_bytes(content)
    with open_cache(path) as cache:
        with pytest.raises(DataError, match=r"is damaged .*cptlite cache --force"):
            cache.features("train")
        with pytest.raises(DataError, match="damaged"):
            cache.features("train", rows=[0])
    with pytest.raises(DataError, match="damaged"):
        verify_cache(path)


@pytest.mark.parametrize(("name", "value"), [("labels", 3), ("labels", -1), ("tasks", 2), ("tasks", -1)])
def test_verify_finds_rows_of_no_class(path: Path, name: str, value: int) -> None:
    with h5py.File(path, "r+") as file:
        file["test"][name][2] = value
    with pytest.raises(DataError, match="damaged .row 2 of split 'test'"):
        verify_cache(path)


def test_verify_finds_what_does_not_fit_together(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["test/labels"].resize((6,))
    with pytest.raises(DataError, match="different numbers"):
        verify_cache(path)


def test_listing(tmp_path: Path, path: Path) -> None:
    other = write(cache_path(tmp_path, "RN50", "other"), replace(WITH_LOCAL, dataset="other"))
    broken = tmp_path / "RN50" / "zz.h5"
    broken.write_bytes(b"?")
    store = PartStore.of_pass(tmp_path / "RN50" / "new.h5", replace(FINGERPRINT, dataset="new", local=9), 4, anew=False)
    store.prepare()
    store.write("train", 0, {"features": np.zeros((4, 1, 8))}, np.array([True, True, False, True]))
    store.write("train", 1, {"features": np.zeros((4, 1, 8))}, np.ones(4, bool))
    found = list_caches(tmp_path)
    assert [summary.path for summary in found] == [other, broken, path, store.folder]
    assert [summary.complete for summary in found] == [True, False, True, False]
    assert [summary.dataset for summary in found] == ["other", "", "drawn", "new"]
    assert [summary.backbone for summary in found] == ["ViT-B/32", "", "ViT-B/32", "ViT-B/32"]
    assert found[0].rows == SIZES and found[0].views == 2 and found[0].bad_images == 2 and found[0].local == 5
    assert found[2].local == 0 and found[3].local == 9
    assert found[0].mib == pytest.approx(other.stat().st_size / 2**20)
    assert "cannot be read as HDF5" in found[1].problem and not found[0].problem
    assert found[3].rows == {"train": 7, "val": 0, "test": 0} and not found[3].problem


def test_nothing_to_list(tmp_path: Path) -> None:
    assert list_caches(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("name", "file"), [("dtd", "dtd.h5"), ("a/b", "a-b.h5"), ("../x", "-x.h5"), ("草莓", "草莓.h5")]
)
def test_names_of_files(name: str, file: str) -> None:
    assert cache_path(Path("cache"), "RN50", name) == Path("cache/RN50") / file


def store_in(folder: Path, **changes: object) -> PartStore:
    store = PartStore.of_pass(folder / "x.h5", replace(FINGERPRINT, **changes), 4, anew=False)
    store.prepare()
    return store


def test_parts_of_different_passes_never_meet(tmp_path: Path) -> None:
    folders = {store_in(tmp_path, **{name: value}).folder for name, value in [("views", 3), ("local", 5)]}
    folders |= {store_in(tmp_path).folder, PartStore.of_pass(tmp_path / "x.h5", FINGERPRINT, 5, anew=False).folder}
    folders.add(PartStore.of_pass(tmp_path / "x.h5", FINGERPRINT, 4, anew=True).folder)
    assert len(folders) == 5
    assert all(folder.name.startswith(".x.h5.parts-") for folder in folders)


def test_a_damaged_part_is_not_used(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.finished("train", 0) is None
    store.write("train", 0, {"features": np.ones((4, 1, 8), np.float16)}, np.ones(4, bool))
    file = store.folder / "train-000000.npz"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert store.finished("train", 0) is None
    # A byte within the features: noticed when they are read.
    place = content.index(b"\x00<" * 3)
    file.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    assert store.finished("train", 0) is not None
    with pytest.raises(CptliteError, match="run the same command again"):
        store.read("train", 0, "features")
    assert store.finished("train", 0) is None
