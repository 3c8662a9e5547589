"""Tests of cptlite.datasets.class_folders, on a user's folders and the catalogue's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cptlite.datasets import Dataset, load_catalog, read_dataset
from cptlite.errors import DataError

CATALOG = load_catalog()


def grow(folder: Path, classes: Mapping[str, int], suffix: str = ".jpg") -> Path:
    """Make class folders of empty files: readers open no image."""
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}{suffix}").touch()
    return folder


def read(path: Path) -> Dataset:
    (spec,) = CATALOG.resolve([str(path)])
    return read_dataset(spec, Path("nowhere"))


def counts(dataset: Dataset) -> list[int]:
    return [len(dataset.splits[split]) for split in ("train", "val", "test")]


def test_a_users_folder(tmp_path: Path) -> None:
    folder = grow(tmp_path / "my spring-flowers", {"rose": 10, "daisy": 20}, ".JPG")
    dataset = read(folder)
    (task,) = dataset.tasks
    assert (dataset.name, task.id, task.name) == ("my_spring-flowers", "my_spring-flowers", "my spring flowers")
    assert (task.class_names, task.template, task.metric) == (("daisy", "rose"), "a photo of a {}.", "acc1")
    assert dataset.image_root == folder
    assert counts(dataset) == [15, 6, 9]
    for rows in dataset.splits.values():
        assert [path.split("/")[0] for path in rows.paths] == [task.class_names[label] for label in rows.labels]
        assert all((dataset.image_root / path).is_file() for path in rows.paths)


def test_other_files_and_hidden_folders_are_left_alone(tmp_path: Path) -> None:
    folder = grow(tmp_path / "pets", {"cat": 2, "dog": 2, ".cache": 3, "__MACOSX": 1})
    for name in ("README.md", "cat/.DS_Store", "cat/Thumbs.db", "dog/notes.txt", "dog/._0.jpg"):
        (folder / name).touch()
    dataset = read(folder)
    assert dataset.tasks[0].class_names == ("cat", "dog")
    assert counts(dataset) == [2, 0, 2]


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_own_splits(tmp_path: Path, words: tuple[str, str, str]) -> None:
    for word, count in zip(words, (3, 1, 2), strict=True):
        grow(tmp_path / "pets" / word, {"cat": count, "dog": count})
    dataset = read(tmp_path / "pets")
    assert counts(dataset) == [6, 2, 4]
    assert dataset.splits["val"].paths == (f"{words[1]}/cat/0.jpg", f"{words[1]}/dog/0.jpg")


def test_without_validation_some_is_held_out(tmp_path: Path) -> None:
    for word, count in (("train", 10), ("test", 4)):
        grow(tmp_path / "pets" / word, {"cat": count, "dog": count})
    assert counts(read(tmp_path / "pets")) == [16, 4, 8]


def test_without_test_the_validation_images_are_it(tmp_path: Path) -> None:
    for word, count in (("train", 10), ("val", 4)):
        grow(tmp_path / "pets" / word, {"cat": count, "dog": count})
    dataset = read(tmp_path / "pets")
    assert counts(dataset) == [16, 4, 8]
    assert dataset.splits["test"].paths[0].startswith("val/")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = read(grow(tmp_path / "vehicles", {"train": 4, "bus": 4}))
    assert dataset.tasks[0].class_names == ("bus", "train")


def test_split_hash_knows_names_and_rows(tmp_path: Path) -> None:
    first = read(grow(tmp_path / "a" / "pets", {"cat": 4, "dog": 4})).split_sha256
    same = read(grow(tmp_path / "b" / "pets", {"cat": 4, "dog": 4})).split_sha256
    more = read(grow(tmp_path / "c" / "pets", {"cat": 5, "dog": 4})).split_sha256
    assert first == same != more


def bad_folder(tmp_path: Path, kind: str) -> Path:
    folder = tmp_path / "pets"
    folder.mkdir()
    if kind == "images only":
        (folder / "1.jpg").touch()
    if kind == "one class":
        grow(folder, {"cat": 3})
    if kind == "empty class":
        grow(folder, {"cat": 3, "dog": 0})
    if kind == "too high":
        grow(folder / "images", {"cat": 3, "dog": 3})
    if kind == "alike":
        grow(folder, {"tabby_cat": 3, "Tabby cat": 3})
    if kind == "blank name":
        grow(folder, {"_": 3, "cat": 3})
    if kind == "untrained class":
        grow(folder / "train", {"cat": 3, "dog": 3})
        grow(folder / "test", {"cat": 3, "dgo": 3})
    if kind == "empty split class":
        grow(folder / "train", {"cat": 3, "dog": 0})
        grow(folder / "test", {"cat": 3, "dog": 3})
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "wanted one folder of images per class, got an empty folder"),
        ("images only", "got 1 images directly in it; sort the images into folders"),
        ("one class", r"wanted at least two classes, found 1 \('cat'\)"),
        ("empty class", "wanted images of the class 'dog', found none; add images"),
        ("too high", "give the folder whose subfolders are the classes"),
        ("alike", "wanted distinct class names, got 'Tabby cat' and 'tabby_cat'"),
        ("blank name", "class 0 has an empty one"),
        ("untrained class", "wanted training images of every class, found none of 'dgo'"),
        ("empty split class", "train/dog: wanted images of the class 'dog'"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(bad_folder(tmp_path, kind))


def fruit(root: Path) -> Path:
    for word, count in (("train", 10), ("test", 10), ("validation", 5)):
        grow(root / "fruit_vegetable" / "images" / word, {"apple": count, "sweetcorn": count})
    return root


def test_fruit_vegetable_keeps_its_own_splits(tmp_path: Path) -> None:
    dataset = read_dataset(CATALOG.datasets["fruit_vegetable"], fruit(tmp_path))
    assert counts(dataset) == [20, 10, 20]
    assert all(path.startswith("test/") for path in dataset.splits["test"].paths)


def test_the_originals_mixing_by_name_only(tmp_path: Path) -> None:
    mixed = read_dataset(CATALOG.datasets["fruit_vegetable_mixed"], fruit(tmp_path))
    assert counts(mixed) == [24, 10, 16]
    assert {path.split("/")[0] for path in mixed.splits["train"].paths} == {"train", "test", "validation"}
    everything = sum((list(rows.paths) for rows in mixed.splits.values()), [])
    assert len(everything) == len(set(everything)) == 50


def test_the_originals_split_file_stays_out_of_own_splits(tmp_path: Path) -> None:
    root = fruit(tmp_path)
    leaking = """{"train": [["test/apple/0.jpg", [0], [0]]], "val": [], "test": [["train/apple/0.jpg", [1], [0]]],
        "meta": {"taskid2cname": [["apple", "sweetcorn"]]}}"""
    (root / "fruit_vegetable" / "split_dk_FruitVegetable.json").write_text(leaking)
    assert counts(read_dataset(CATALOG.datasets["fruit_vegetable"], root)) == [20, 10, 20]
    assert counts(read_dataset(CATALOG.datasets["fruit_vegetable_mixed"], root)) == [1, 0, 1]


def test_demo_tasks_lie_in_own_splits(tmp_path: Path) -> None:
    for spec in CATALOG.resolve(["demo"]):
        for word in ("train", "val", "test"):
            grow(tmp_path / spec.layout.directory / word, {"a": 2, "b": 2}, ".png")
        assert counts(read_dataset(spec, tmp_path)) == [4, 4, 4]
    assert (tmp_path / "demo" / "shapes" / "train" / "a").is_dir()


def test_an_unreadable_folder_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = grow(tmp_path / "pets", {"cat": 3, "dog": 3})

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("cptlite.datasets.class_folders.os.scandir", refuse)
    with pytest.raises(DataError, match="Permission denied; check the file and its permissions"):
        read(folder)
