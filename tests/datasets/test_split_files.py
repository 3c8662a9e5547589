"""Tests of cptlite.datasets.split_files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cptlite.datasets import Dataset, DatasetSpec, Layout, read_dataset
from cptlite.errors import DataError

SPEC = DatasetSpec(
    name="birds",
    layout=Layout(directory="birds", images="images", reader="split_file", split="split_zhou_Birds.json"),
    task_name="bird",
)


def coop_split() -> dict[str, list]:
    return {
        "train": [["b/1.jpg", 1, "blue_tit"], ["a/1.jpg", 0, "auk"]],
        "val": [["a/2.jpg", 0, "auk"]],
        "test": [["c/1.jpg", 2, "chough"]],
    }


def softcpt_split() -> dict[str, Any]:
    return {
        "train": [["b/1.jpg", [1], [0]], ["a/1.jpg", [0], [0]]],
        "val": [["a/2.jpg", [0], [0]]],
        "test": [["c/1.jpg", [2], [0]]],
        "meta": {"taskid2cname": [["auk", "blue_tit", "chough"]], "taskid2tname": ["birds"]},
    }


def read(root: Path, content: Any, name: str = "split_zhou_Birds.json") -> Dataset:
    (root / "birds" / "images").mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "birds" / name).write_text(text, encoding="utf-8")
    return read_dataset(SPEC, root)


@pytest.mark.parametrize(
    ("content", "name"), [(coop_split(), "split_zhou_Birds.json"), (softcpt_split(), "split_dk_Birds.json")]
)
def test_both_forms_give_the_same_rows(tmp_path: Path, content: Any, name: str) -> None:
    dataset = read(tmp_path, content, name)
    (task,) = dataset.tasks
    assert (task.id, task.name, task.class_names) == ("birds", "bird", ("auk", "blue_tit", "chough"))
    assert dataset.image_root == tmp_path / "birds" / "images"
    assert dataset.splits["train"].paths == ("b/1.jpg", "a/1.jpg")
    assert dataset.splits["train"].labels.tolist() == [1, 0]
    assert dataset.splits["train"].labels.dtype == dataset.splits["train"].tasks.dtype == "int32"
    assert [len(dataset.splits[split]) for split in ("train", "val", "test")] == [2, 1, 1]


def test_coops_file_wins_over_the_originals(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    changed = softcpt_split()
    changed["meta"]["taskid2cname"] = [["x", "y", "z"]]
    (tmp_path / "birds" / "split_dk_Birds.json").write_text(json.dumps(changed))
    assert read_dataset_after(tmp_path).tasks[0].class_names[0] == "auk"


def read_dataset_after(root: Path) -> Dataset:
    (root / "birds" / "images").mkdir()
    (root / "birds" / "split_zhou_Birds.json").write_text(json.dumps(coop_split()))
    return read_dataset(SPEC, root)


def test_several_tasks_of_the_original(tmp_path: Path) -> None:
    content = {
        "train": [["0/0/1.jpg", [0], [0]], ["1/1/1.jpg", [1], [1]]],
        "val": [],
        "test": [["1/0/1.jpg", [0], [1]]],
        "meta": {"taskid2cname": [["a", "b"], ["a", "c"]], "taskid2tname": ["pants_type", "hat type"]},
    }
    dataset = read(tmp_path, content, "split_dk_Birds.json")
    assert [task.id for task in dataset.tasks] == ["birds/pants-type", "birds/hat-type"]
    assert [task.name for task in dataset.tasks] == ["pants type", "hat type"]
    assert dataset.splits["train"].tasks.tolist() == [0, 1]
    assert dataset.splits["train"].labels.tolist() == [0, 1]


def changed(split: str, row: int, value: Any) -> dict[str, list]:
    content = coop_split()
    content[split][row] = value
    return content


BAD_COOP = {
    "no json": ("{", "wanted a JSON file"),
    "other encoding": ('{"train": "\udcff"}', "wanted UTF-8 text"),
    "a list": ([], "'train', 'val' and 'test', got no table"),
    "few-shot list": ({"shot_1-seed_1": {}}, "'train', 'val' and 'test', got keys 'shot_1-seed_1'"),
    "no val": ({k: v for k, v in coop_split().items() if k != "val"}, "got keys 'train', 'test'"),
    "short row": (changed("train", 0, ["b/1.jpg", 1]), r"got \['b/1.jpg', 1\] \(train row 0\)"),
    "row is a text": (changed("val", 0, "b/1.jpg"), "val row 0"),
    "label is a text": (changed("train", 1, ["a", "0", "auk"]), "train row 1"),
    "negative label": (changed("train", 1, ["a", -1, "auk"]), "labels from 0"),
    "two names": (changed("val", 0, ["a/2.jpg", 0, "Auk"]), "got 'auk' and 'Auk' for label 0"),
    "two labels": (changed("test", 0, ["c/1.jpg", 2, "auk"]), "distinct class names, got 'auk' and 'auk'"),
    "alike names": (changed("test", 0, ["c/1.jpg", 2, "Blue tit "]), "got 'blue_tit' and 'Blue tit'"),
    "empty name": (changed("test", 0, ["c/1.jpg", 2, " "]), "class 2 has an empty one"),
    "gap": (changed("test", 0, ["c/1.jpg", 4, "chough"]), "labels 0 to 4 without a gap, no row has label 2, 3"),
    "climbing": (changed("test", 0, ["../c/1.jpg", 2, "chough"]), "inside its folder, got '../c/1.jpg'"),
    "climbing later": (changed("test", 0, ["c/../../1.jpg", 2, "chough"]), "without '..'"),
    "climbing, Windows": (changed("test", 0, ["c\\..\\..\\1.jpg", 2, "chough"]), "inside its folder"),
    "absolute": (changed("test", 0, ["/etc/passwd", 2, "chough"]), "got '/etc/passwd'"),
    "drive": (changed("test", 0, ["C:\\1.jpg", 2, "chough"]), "inside its folder"),
    "windows share": (changed("test", 0, ["\\\\s\\c\\1.jpg", 2, "chough"]), "inside its folder"),
    "zero byte": (changed("test", 0, ["c/\0.jpg", 2, "chough"]), "inside its folder"),
    "climbing with a slash first": (changed("test", 0, ["\\..\\1.jpg", 2, "chough"]), "got '../1.jpg'"),
    "deep row": (changed("test", 0, [[[[[[[[["c"]]]]]]]], 2, "chough"]), r"\(test row 0\)"),
    "not a number": (changed("test", 0, ["c/1.jpg", float("nan"), "chough"]), "NaN is no JSON"),
    "huge label": (json.dumps(coop_split()).replace(" 2, ", " 2" + "0" * 5000 + ", "), "wanted a JSON file"),
    "large label": (changed("test", 0, ["c/1.jpg", 2**40, "chough"]), "no row has label 2, 3, 4, 5, 6"),
    "nested too deep": ("[" * 50_000, "nested too deep"),
    "control": (changed("test", 0, ["c/1.jpg", 2, "x\ny"]), "without control characters"),
    "empty path": (changed("test", 0, ["", 2, "chough"]), "got ''"),
    "one class": ({"train": [["a", 0, "auk"]], "val": [], "test": []}, r"two classes, found 1 \('auk'\)"),
    "no rows": ({"train": [], "val": [], "test": []}, "wanted images, found none"),
}


@pytest.mark.parametrize(("content", "message"), BAD_COOP.values(), ids=BAD_COOP)
def test_bad_coop_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, str):
        (tmp_path / "birds" / "images").mkdir(parents=True)
        (tmp_path / "birds" / "split_zhou_Birds.json").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(DataError, match=message):
            read_dataset(SPEC, tmp_path)
        return
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "split_zhou_Birds.json" in str(caught.value)


BAD_SOFTCPT = {
    "label not named": ({"train": [["a", [3], [0]]]}, "got label 3 of task 0"),
    "task not named": ({"train": [["a", [0], [1]]]}, "got label 0 of task 1"),
    "two labels": ({"train": [["a", [0, 1], [0, 0]]]}, r"wanted rows \[path, \[label\], \[task\]\]"),
    "coop row": ({"train": [["a", 0, "auk"]]}, "train row 0"),
    "no names": ({"meta": {}}, "meta.taskid2cname"),
    "no task names": ({"meta": {"taskid2cname": [["a", "b"], ["c", "d"]]}}, "2 task names in meta.taskid2tname"),
}


@pytest.mark.parametrize(("change", "message"), BAD_SOFTCPT.values(), ids=BAD_SOFTCPT)
def test_bad_softcpt_files_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, softcpt_split() | change, "split_dk_Birds.json")


def test_names_beyond_ascii_and_dots_in_names_are_fine(tmp_path: Path) -> None:
    content = changed("test", 0, ["c/été..1.jpg", 2, "Müller's Wüstenspötter 鳥"])
    dataset = read(tmp_path, content)
    assert dataset.tasks[0].class_names[2] == "Müller's Wüstenspötter 鳥"
    assert dataset.splits["test"].paths == ("c/été..1.jpg",)
