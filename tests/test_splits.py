"""Tests of cptlite.splits."""

from __future__ import annotations

import functools
import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlite.datasets import load_catalog
from cptlite.datasets.drafts import Draft, Place
from cptlite.datasets.readers import READERS
from cptlite.errors import UsageError
from cptlite.shots import ALL_SHOTS, mean_shots, read_shots, say_shots
from cptlite.splits import base_classes, check_shots, few_shot_rows

labels_of_rows = st.lists(st.integers(0, 5), max_size=40)


@given(labels_of_rows, labels_of_rows, st.integers(1, 9), st.integers(0, 99))
def test_every_class_gives_its_shots_or_all_it_has(train, val, shots, seed) -> None:
    for groups, wanted, rows in zip(
        (train, val), (shots, min(shots, 4)), few_shot_rows(train, val, shots, seed), strict=True
    ):
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == len(rows)
        drawn = [groups[row] for row in rows]
        assert list(dict.fromkeys(drawn)) == list(dict.fromkeys(groups))
        for label in set(groups):
            assert drawn.count(label) == min(wanted, groups.count(label))


def test_the_global_generator_is_left_alone() -> None:
    random.seed(5)
    expected = random.Random(5).random()
    few_shot_rows([0, 0, 1, 1], [0, 1], 1, seed=3)
    assert random.random() == expected


def test_arrays_and_lists_of_pairs_draw_the_same() -> None:
    tasks, labels = np.repeat([0, 1], 20), np.tile(np.arange(4, dtype=np.int32), 10)
    pairs = list(zip(tasks.tolist(), labels.tolist(), strict=True))
    from_list = few_shot_rows(pairs, pairs, 2, seed=1)
    from_array = few_shot_rows(np.stack([tasks, labels], axis=1), pairs, 2, seed=1)
    assert from_list[0].tolist() == from_array[0].tolist()
    assert from_list[1].tolist() == from_array[1].tolist()


def test_no_validation_rows_is_fine() -> None:
    train, val = few_shot_rows(np.array([0, 1, 1]), np.array([], dtype=np.int32), 1, seed=1)
    assert len(train) == 2 and len(val) == 0


@pytest.mark.parametrize("shots", [0, -1])
def test_shots_below_one_are_refused(shots: int) -> None:
    with pytest.raises(UsageError, match=rf"at least 1, got {shots}"):
        few_shot_rows([0], [0], shots, seed=1)


def test_check_shots_knows_the_largest_class() -> None:
    check_shots([0, 0, 0, 1], 3)
    with pytest.raises(UsageError, match="choose --shots from 1 to 3"):
        check_shots([0, 0, 0, 1], 4)
    with pytest.raises(UsageError, match="no training rows"):
        check_shots([], 1)


def test_base_classes_round_up() -> None:
    assert [base_classes(n) for n in (1, 2, 3, 47, 100)] == [1, 1, 2, 24, 50]


REPOSITORY = Path(__file__).parent.parent
FEW_SHOT_DIR = Path(os.environ.get("CPTLITE_FEWSHOT_DIR", REPOSITORY.parent / "shared" / "fewshot"))


def published_lists() -> list:
    """One case per published list; a lone skipped one where there are none."""
    cases = []
    for path in sorted(FEW_SHOT_DIR.glob("*_fewshot.json")):
        name = path.name.removesuffix("_fewshot.json")
        cases += [
            pytest.param(name, key, published, id=f"{name}-{key}")
            for key, published in json.loads(path.read_text()).items()
        ]
    reason = f"no *_fewshot.json in {FEW_SHOT_DIR}; set CPTLITE_FEWSHOT_DIR"
    return cases or [pytest.param("", "", {}, marks=pytest.mark.skip(reason=reason), id="none")]


@functools.cache
def published_split(name: str) -> Draft:
    """Read the split file the catalogue names for a dataset, from the folder of the lists."""
    layout = load_catalog().datasets[name].layout
    return READERS[layout.reader].read(Place(name=name, folder=FEW_SHOT_DIR, layout=layout))


@pytest.mark.parametrize(("name", "key", "published"), published_lists())
def test_published_lists_are_reproduced(name: str, key: str, published: dict) -> None:
    rows = published_split(name).rows
    shots, seed = map(int, re.fullmatch(r"shot_(\d+)-seed_(\d+)", key).groups())
    groups = [[label for _, label, _ in rows[part]] for part in ("train", "val")]
    drawn = few_shot_rows(*groups, shots, seed)
    for part, chosen in zip(("train", "val"), drawn, strict=True):
        assert [rows[part][row][0].rpartition("/")[2] for row in chosen] == published[part]


def test_all_shots_keep_every_training_row_and_draw_validation_as_published() -> None:
    train, val = list("aabbbbc"), list("aaaaaabbc")
    drawn = few_shot_rows(train, val, ALL_SHOTS, 1)
    assert sorted(drawn[0].tolist()) == list(range(7))
    assert [val[row] for row in drawn[1]] == list("aaaabbc")
    check_shots(train, ALL_SHOTS)
    with pytest.raises(UsageError, match="there are no training rows"):
        check_shots([], ALL_SHOTS)
    assert mean_shots([2, 4, 0], ALL_SHOTS) == 3 and mean_shots([2, 4, 0], 16) == 16
    assert [say_shots(read_shots(word)) for word in (4, "all")] == [4, "all"]
