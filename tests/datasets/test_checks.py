"""Tests of cptlite.datasets.checks: what is odd about a dataset is counted in a line each."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cptlite.datasets import Dataset, DatasetSpec, Layout, Rows, Task, checks, read_dataset
from cptlite.datasets.checks import counted, doubled_rows, refuse_warnings, same_bytes, short_classes
from cptlite.errors import DataError

TASK = Task(id="t", name="t", class_names=("a", "b", "c"), template="a {}", metric="acc1")


def rows(labels: list[int], paths: list[str] | None = None, tasks: list[int] | None = None) -> Rows:
    return Rows(
        paths=tuple(paths or map(str, range(len(labels)))),
        labels=np.array(labels, np.int32),
        tasks=np.array(tasks or [0] * len(labels), np.int32),
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [(["x"], "1 file (x)"), (["y", "x"], "2 files (x, y)"), (["a", "b", "\x1b", "d"], "4 files (\\x1b, a, b, ...)")],
)
def test_counted(names: list[str], words: str) -> None:
    assert counted(names, "file", "files") == words


@pytest.mark.parametrize(
    ("splits", "lines"),
    [
        ({"train": ["1", "2"], "val": [], "test": ["3"]}, []),
        ({"train": ["1", "2"], "test": ["2", "1", "3"]}, ["images both in train and test: 2 (the first: 2)"]),
        ({"train": ["1"], "val": ["./1"]}, ["images both in train and validation: 1 (the first: ./1)"]),
        ({"val": ["é"], "test": ["é"]}, ["images both in validation and test: 1 (the first: é)"]),
        ({"train": ["1", "1", "2"]}, ["images listed twice in train: 1 (the first: 1)"]),
    ],
)
def test_doubled_rows(splits: Mapping[str, list[str]], lines: list[str]) -> None:
    assert doubled_rows({split: [(path, 0, 0) for path in paths] for split, paths in splits.items()}) == lines


def test_an_image_of_two_tasks_is_not_doubled() -> None:
    assert doubled_rows({"train": [("1", 0, 0)], "test": [("1", 0, 1)]}) == []


@pytest.mark.parametrize(
    ("train", "test", "lines"),
    [
        ([0, 1, 2], [2, 1, 0], []),
        ([0, 1], [0, 1, 2], ["without train rows: 1 class (c)"]),
        ([0, 1, 2], [1], ["without test rows: 2 classes (a, c)"]),
        ([0], [1], ["without train rows: 2 classes (b, c)", "without test rows: 2 classes (a, c)"]),
        ([], [0, 1, 2], []),
        ([0, 1, 2], [], ["no test rows at all"]),
    ],
)
def test_short_classes(train: list[int], test: list[int], lines: list[str]) -> None:
    assert short_classes([TASK], {"train": rows(train), "val": rows([]), "test": rows(test)}) == lines


def test_short_classes_of_several_tasks_name_theirs() -> None:
    splits = {"train": rows([0, 1, 2, 0, 1], tasks=[0, 0, 0, 1, 1]), "val": rows([]), "test": rows([])}
    assert short_classes([TASK, TASK], splits)[0] == "without train rows: 1 class (c of t)"


def dataset(root: Path, contents: Mapping[str, Mapping[str, bytes]], tasks: Mapping[str, int] | None = None) -> Dataset:
    splits = {}
    for split in ("train", "val", "test"):
        files = contents.get(split, {})
        for name, content in files.items():
            (root / name).write_bytes(content)
        splits[split] = rows([0] * len(files), list(files), [(tasks or {}).get(name, 0) for name in files])
    return Dataset(name="x", image_root=root, tasks=(TASK, TASK), splits=splits)


LONG = bytes(range(256)) * 100  # 25,600 bytes: its ends do not overlap
MIDDLE = LONG[:10_000] + b"\0" + LONG[10_001:]


@pytest.mark.parametrize(
    ("contents", "lines"),
    [
        ({"train": {"1": LONG}, "test": {"2": LONG}}, ["the same bytes in train and test: 1 (the first: 2 is 1)"]),
        ({"train": {"1": b"x"}, "val": {"2": b"x"}}, ["the same bytes in train and validation: 1 (the first: 2 is 1)"]),
        ({"train": {"1": LONG}, "test": {"2": MIDDLE}}, []),
        ({"train": {"1": LONG}, "test": {"2": LONG[:-1] + b"\0"}}, []),
        ({"train": {"1": LONG, "2": LONG}, "test": {"3": b"x"}}, []),
        ({"train": {"1": b""}, "test": {"2": b""}}, []),
        ({"train": {"1": LONG}, "test": {"1": LONG}}, []),  # said by its name already
        (
            {"train": {"1": LONG, "2": MIDDLE}, "test": {"3": LONG, "4": LONG, "5": MIDDLE}},
            ["the same bytes in train and test: 3 (the first: 3 is 1)"],
        ),
    ],
)
def test_same_bytes(tmp_path: Path, contents: Mapping[str, Mapping[str, bytes]], lines: list[str]) -> None:
    assert same_bytes(dataset(tmp_path, contents)) == lines


def test_same_bytes_of_two_tasks_and_of_no_files(tmp_path: Path) -> None:
    contents = {"train": {"1": LONG, "3": LONG, "5": LONG}, "test": {"2": LONG}}
    data = dataset(tmp_path, contents, {"2": 1})
    assert same_bytes(data) == []
    (tmp_path / "1").unlink()
    (tmp_path / "3").unlink()
    os.mkfifo(tmp_path / "3")
    assert same_bytes(dataset(tmp_path, {"test": {"2": LONG}})) == []
    assert same_bytes(data) == []


def test_files_of_sizes_of_their_own_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    read = checks._ends
    monkeypatch.setattr(checks, "_ends", lambda path: opened.append(Path(path).name) or read(path))
    same_bytes(dataset(tmp_path, {"train": {"1": b"x", "2": b"xyz"}, "test": {"3": b"xy", "4": b"abc"}}))
    assert opened == ["2", "4"]


def test_comparing_bytes_takes_a_few_numbers_a_file(tmp_path: Path) -> None:
    count = 20_000
    paths = [f"images/of/one/class/{number}.jpg" for number in range(count)]
    splits = {"train": rows([0] * count, paths), "val": rows([]), "test": rows([])}
    absent = Dataset(name="x", image_root=tmp_path, tasks=(TASK,), splits=splits)
    tracemalloc.start()
    assert same_bytes(absent) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * count  # an object for each took 400


def test_many_files_of_few_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of several threads find what one look at all would."""
    monkeypatch.setattr(checks, "PART", 3)
    contents = {split: {f"{split}{n}": LONG[: 9000 + n % 7] for n in range(20)} for split in ("train", "val", "test")}
    assert same_bytes(dataset(tmp_path, contents)) == [
        "the same bytes in train and validation: 20 (the first: val0 is train0)",
        "the same bytes in train and test: 20 (the first: test0 is train0)",
    ]


def test_strict() -> None:
    refuse_warnings({"x": [], "y": []})
    with pytest.raises(DataError, match="--strict wants data .*got\n  x: one\n  x: two"):
        refuse_warnings({"x": ["one", "two"], "y": []})


def test_a_split_file_of_another_system(tmp_path: Path) -> None:
    names = ["ash", "elm"]
    split = {
        "train": [[f"\\{name}\\1.png", label, name] for label, name in enumerate(names)],
        "val": [[f"{name}\\2.png", label, name] for label, name in enumerate(names)],
        "test": [[f"{tmp_path}/images/{name}/1.png", label, name] for label, name in enumerate(names)],
    }
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for suffix in ("1.png", "2.PNG"):
            (tmp_path / "images" / name / suffix).touch()
    (tmp_path / "s.json").write_text(json.dumps(split))
    layout = Layout(directory=".", images="images", reader="split_file", split="s.json")
    found = read_dataset(DatasetSpec(name="s", layout=layout, task_name="s"), tmp_path)
    assert found.splits["train"].paths == ("ash/1.png", "elm/1.png")
    assert found.splits["val"].paths == ("ash/2.PNG", "elm/2.PNG")
    assert found.warnings == ("images both in train and test: 2 (the first: ash/1.png)",)
