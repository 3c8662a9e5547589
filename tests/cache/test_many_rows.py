"""Opening, verifying and encoding take no more memory where there are more rows."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_fakes import FakeBackbone, draw_image, make_tasks
from measure_scale import write_rows

from cptlite.cache import format as cache_format
from cptlite.cache import open_cache, verify_cache
from cptlite.cache import verify as cache_verify
from cptlite.cache.encode import encode_dataset
from cptlite.datasets.types import SPLITS, Dataset, Rows
from cptlite.errors import DataError

IO = Path("/proc/self/io")
FEW, MANY = 1_000, 10_000


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes of Python's and NumPy's that were in use at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and blocks of which even few rows fill several."""
    monkeypatch.setattr(cache_format, "CHUNK_BYTES", 2**10)
    monkeypatch.setattr(cache_verify, "BLOCK", 256)


def write(folder: Path, rows: int) -> Path:
    return write_rows(folder / str(rows), FakeBackbone(), (rows, 20, 20), 10)


def test_verify_holds_one_chunk(tmp_path: Path, small_chunks: None) -> None:
    few, many = write(tmp_path, FEW), write(tmp_path, MANY)
    assert verify_cache(many) > 5 * verify_cache(few)
    first, second = (peak_of(lambda path=path: verify_cache(path)) for path in (few, many))
    assert second < first + 2**14  # the labels of MANY rows have 80 kB


@pytest.mark.parametrize("row", [0, 255, 256, 999])
def test_verify_says_the_row_in_any_block(row: int, tmp_path: Path, small_chunks: None) -> None:
    path = write(tmp_path, FEW)
    with h5py.File(path, "r+") as file:
        file["train/labels"][row] = 10
    with pytest.raises(DataError, match=f"row {row} of split 'train': class 10 where task 'scale' has 10"):
        verify_cache(path)


def test_a_chunk_of_all_rows_is_refused(tmp_path: Path) -> None:
    """Checksums or not: one such chunk has to be in memory whole."""
    path = write(tmp_path, FEW)
    with h5py.File(path, "r+") as file:
        old = file["train/features"][:]
        del file["train/features"]
        wide = np.zeros((FEW, 1, 8), np.float16)
        assert old.shape == wide.shape
        file["train"].create_dataset(
            "features", data=wide, chunks=(2**18, 1, 8), maxshape=(None, 1, 8), fletcher32=True
        )
    with pytest.raises(DataError, match="'/train/features' is stored 262144 rows at a time"):
        open_cache(path)


@pytest.mark.skipif(not IO.exists(), reason="the system does not count what a process reads")
def test_opening_reads_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, 10 * MANY)
    open_cache(path).close()
    before = int(IO.read_text().split()[1])
    with open_cache(path) as cache:
        assert cache.num_rows("train") == 10 * MANY
    assert int(IO.read_text().split()[1]) - before < path.stat().st_size / 50


def fake_list(root: Path, rows: int) -> Dataset:
    """So many rows of one image."""
    splits = {split: Rows(paths=("one.png",) * n, labels=np.arange(n, dtype=np.int32) % 3, tasks=np.zeros(n, np.int32))
              for split, n in zip(SPLITS, (rows, 0, 5), strict=True)}  # fmt: skip
    return Dataset(name=f"list{rows}", image_root=root, tasks=make_tasks(), splits=splits)


def test_a_pass_holds_a_few_bytes_an_image(tmp_path: Path, small_chunks: None) -> None:
    draw_image(tmp_path / "one.png", 0)
    few, many = fake_list(tmp_path, 128), fake_list(tmp_path, 1024)

    def encode(dataset: Dataset) -> None:
        encode_dataset(dataset, FakeBackbone(), tmp_path, batch_size=4, part_rows=32, workers=0)

    encode(fake_list(tmp_path, 64))  # imports what it imports
    first, second = (peak_of(lambda dataset=dataset: encode(dataset)) for dataset in (few, many))
    assert second < first + 60 * (1024 - 128)  # a list of batches has 200 an image, of JSON 100


@pytest.mark.parametrize("rows", [0, 1, 4095, 4096, 4097, 9000])
def test_the_digest_of_rows_is_that_of_their_json(rows: int) -> None:
    labels = np.arange(rows, dtype=np.int32) % 3
    paths = tuple(f'é "{row}" 草莓\\.png' for row in range(rows))
    splits = {
        "val": Rows(paths=paths, labels=labels, tasks=labels % 2),
        "train": Rows(paths=("a",), labels=labels[:1], tasks=labels[:1]),
    }
    dataset = Dataset(name="d", image_root=Path(), tasks=make_tasks(), splits=splits)
    plain = {
        "tasks": [[task.id, list(task.class_names)] for task in dataset.tasks],
        "splits": {
            name: [list(of.paths), of.labels.tolist(), of.tasks.tolist()] for name, of in sorted(splits.items())
        },
    }
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    assert dataset.split_sha256 == hashlib.sha256(text.encode()).hexdigest()
