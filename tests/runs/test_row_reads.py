"""Training on a cache of many rows reads the chunks that hold its own, and then nothing more."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from measure_scale import write_rows
from run_bench import least

from cptlite.backbones import Backbone
from cptlite.cache import FeatureCache, open_cache
from cptlite.cache import format as cache_format
from cptlite.runs.execute import new_problems
from cptlite.runs.guards import SOUND_ROWS, sound_features
from cptlite.runs.learn import Run, learn_runs
from cptlite.runs.rows import check_caches, draw_few_shots

IO = Path("/proc/self/io")
CPU = torch.device("cpu")
CHUNK = 16 * 256  # bytes: 16 rows of 128 half-precision numbers
CLASSES = 10

needs_io = pytest.mark.skipif(not IO.exists(), reason="the system does not count what a process reads")


def bytes_read() -> int:
    """Bytes that this process has read, from whatever file."""
    return int(IO.read_text().split()[1])


@pytest.fixture
def cache(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    """A thousand rows of each class, in chunks of sixteen rows."""
    monkeypatch.setattr(cache_format, "CHUNK_BYTES", CHUNK)
    path = write_rows(tmp_path, backbone, (1000 * CLASSES, 100, 100), CLASSES)
    with open_cache(path) as cache:
        yield cache


def touched(cache: FeatureCache, shots: int) -> int:
    """Chunks of features that hold rows of a draw, which the same features tell."""
    train, _ = draw_few_shots([cache], shots=shots, seed=1, device=CPU)
    known = {row.tobytes(): number for number, row in enumerate(cache.features("train")[:, 0])}
    return len({known[row.tobytes()] // 16 for row in train.features[:, 0].numpy()})


@needs_io
@pytest.mark.parametrize("shots", [1, 16])
def test_drawing_shots_reads_their_chunks_once_and_labels(cache: FeatureCache, shots: int) -> None:
    chunks = touched(cache, shots)
    assert chunks <= CLASSES * shots  # of 625
    labels = 2 * 4 * (cache.num_rows("train") + cache.num_rows("val"))
    with open_cache(cache.path) as fresh:  # HDF5 has kept nothing of it
        before = bytes_read()
        train, val = draw_few_shots([fresh], shots=shots, seed=1, device=CPU)
        read = bytes_read() - before
    assert len(train.labels) == CLASSES * shots
    assert train.features.untyped_storage().nbytes() == CLASSES * shots * 256  # and keeps its rows alone
    expected = (chunks + math.ceil(cache.num_rows("val") / 16)) * CHUNK
    # What is more are structures of HDF5.
    assert chunks * CHUNK < read < expected + labels + 2**15
    assert read < cache.path.stat().st_size / (2 if shots > 1 else 4)


@needs_io
def test_steps_read_nothing(cache: FeatureCache, backbone: Backbone) -> None:
    """What is drawn is in memory: a closed cache is as good as an open one, and no other file stands in for it."""
    config = least("coop-ca", shots=2)
    train, val = draw_few_shots([cache], shots=2, seed=1, device=CPU)
    problem = new_problems(config, backbone, [cache])[0]
    learn_runs(problem, [Run(config=config, train=train, val=val)])  # imports what it imports
    cache.close()
    before = bytes_read()
    learn_runs(problem, [Run(config=config, train=train, val=val)])
    assert bytes_read() - before < 2**12


def test_checking_rows_takes_a_few_numbers_a_row(cache: FeatureCache) -> None:
    check_caches([cache], [least("coop-ca", shots=2)])
    tracemalloc.start()
    check_caches([cache], [least("coop-ca", shots=2)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * cache.num_rows("train")  # Python objects take 200 and more


def test_features_are_looked_at_in_parts() -> None:
    features = torch.ones(3 * SOUND_ROWS + 5, 1, 2, dtype=torch.float16)
    wrong = [0, SOUND_ROWS - 1, SOUND_ROWS, 3 * SOUND_ROWS + 4]
    features[wrong] = torch.tensor([[[0.0, 0.0]], [[np.nan, 1]], [[np.inf, 1]], [[0.0, 0.0]]], dtype=torch.float16)
    assert sound_features(features).logical_not().nonzero()[:, 0].tolist() == wrong
    assert sound_features(features[:0]).tolist() == []
