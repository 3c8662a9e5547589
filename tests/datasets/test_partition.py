"""Tests of cptlite.datasets.partition."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlite.datasets.partition import hold_out, part_sizes, partition, settle_splits
from cptlite.errors import DataError

SOURCE = Path("list")
classes_of_images = st.dictionaries(
    st.text("abcé ", min_size=1, max_size=4),
    st.lists(st.text("xyz0", min_size=1, max_size=6), min_size=1, max_size=30, unique=True),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (2, 0, 1)),
        (4, (2, 1, 1)),
        (5, (2, 1, 2)),
        (7, (4, 1, 2)),
        (10, (5, 2, 3)),
        (40, (20, 8, 12)),
        (120, (60, 24, 36)),
    ],
)
def test_part_sizes(count: int, sizes: tuple[int, int, int]) -> None:
    assert part_sizes(count) == sizes


@given(st.integers(2, 5000))
def test_part_sizes_leave_something_to_train_and_test_on(count: int) -> None:
    train, val, test = part_sizes(count)
    assert train + val + test == count
    assert train >= 1 and val >= 0 and test >= 1
    assert abs(train - count / 2) <= 1 and abs(val - count / 5) <= 1


@given(classes_of_images, st.integers(0, 9), st.randoms())
def test_partition_neither_loses_nor_repeats_and_forgets_the_order_of_files(classes, seed, random) -> None:
    parts = partition(classes, seed)
    for name, paths in classes.items():
        assert sorted(sum((parts[split][name] for split in parts), [])) == sorted(paths)
    shuffled = {name: random.sample(paths, len(paths)) for name, paths in reversed(classes.items())}
    assert partition(shuffled, seed) == parts


def test_partition_is_the_same_on_every_machine() -> None:
    parts = partition({"rose": [f"rose/{i}.jpg" for i in range(10)], "Bärlauch": [f"b/{i}.jpg" for i in range(4)]})
    assert parts == {
        "train": {"rose": [f"rose/{i}.jpg" for i in (0, 2, 6, 7, 9)], "Bärlauch": ["b/0.jpg", "b/2.jpg"]},
        "val": {"rose": ["rose/1.jpg", "rose/8.jpg"], "Bärlauch": ["b/3.jpg"]},
        "test": {"rose": ["rose/3.jpg", "rose/4.jpg", "rose/5.jpg"], "Bärlauch": ["b/1.jpg"]},
    }


def test_the_spelling_of_accents_does_not_decide() -> None:
    one, two = "Bärlauch", unicodedata.normalize("NFD", "Bärlauch")
    assert one != two
    images = [f"{i}.jpg" for i in range(20)]
    assert partition({one: images})["test"][one] == partition({two: images})["test"][two]


def test_another_class_or_seed() -> None:
    rose = [f"rose/{i}.jpg" for i in range(50)]
    alone = partition({"rose": rose})
    beside = partition({"daisy": ["d.jpg"], "rose": rose})
    assert alone["train"]["rose"] == beside["train"]["rose"]
    assert alone["train"]["rose"] != partition({"rose": rose}, seed=1)["train"]["rose"]


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (10, 2), (100, 20)])
def test_hold_out(count: int, held: int) -> None:
    paths = [f"{i:03d}.jpg" for i in range(count)]
    train, val = hold_out({"a": paths})
    assert len(val["a"]) == held
    assert sorted(train["a"] + val["a"]) == paths


def test_settle_keeps_a_complete_split() -> None:
    parts = {"train": {"a": ["1"]}, "val": {"a": ["2"]}, "test": {"a": ["3"]}}
    assert settle_splits(parts, SOURCE) == parts


def test_settle_tests_on_validation_where_there_is_no_test() -> None:
    parts = {"train": {"a": ["1", "2", "3"]}, "val": {"a": ["4"]}, "test": {"a": []}}
    settled = settle_splits(parts, SOURCE)
    assert settled["test"] == {"a": ["4"]}
    assert len(settled["val"]["a"]) == 1 and len(settled["train"]["a"]) == 2


def test_settle_allows_test_only() -> None:
    assert settle_splits({"test": {"a": ["1"]}}, SOURCE) == {"test": {"a": ["1"]}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": {"a": ["1"]}}, "wanted images to test on, got only train"),
        ({"train": {"a": ["1"]}, "test": {"a": ["2"], "b": ["3"]}}, "found none of 'b'"),
    ],
)
def test_settle_refuses(parts: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        settle_splits(parts, SOURCE)
