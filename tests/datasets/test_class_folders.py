"""Tests of cptlite.datasets.class_folders, on a user's folders and the catalogue's."""

from __future__ import annotations

import unicodedata
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


def splits(root: Path, **counts: int) -> Path:
    for word, count in counts.items():
        grow(root / word, {"ash": count, "elm": count})
    return root


def test_folders_beside_the_three_are_named_and_left_out(tmp_path: Path) -> None:
    """As a public set of seedlings lies."""
    folder = splits(tmp_path / "seedlings", train=4, validation=2, test=3, train_validation=6, train_large_img=4)
    (folder / "kaggle_test").mkdir()
    (folder / "kaggle_test" / "1.png").touch()
    dataset = read(folder)
    assert counts(dataset) == [8, 4, 6]
    assert dataset.tasks[0].class_names == ("ash", "elm")
    beside = "left out beside test, train, validation: 3 folders (kaggle_test, train_large_img, train_validation)"
    assert dataset.warnings == (beside,)


@pytest.mark.parametrize("words", [("train", "test"), ("Train", "valid"), ("training", "dev"), ("train", "val")])
def test_two_folders_and_others_are_enough(tmp_path: Path, words: tuple[str, str]) -> None:
    dataset = read(splits(tmp_path / "own", **{words[0]: 5, words[1]: 3, "extra": 2}))
    assert counts(dataset) == [8, 2, 6]
    assert "1 folder (extra)" in dataset.warnings[0]
    assert "no validation split: a fifth of each class's training images is held out for it" in dataset.notes
    assert ("no test split: the validation images are it" in dataset.notes) == (words[1] != "test")


def test_classes_called_train_and_test_beside_others(tmp_path: Path) -> None:
    dataset = read(grow(tmp_path / "words", {"train": 4, "test": 4, "bus": 4}))
    assert dataset.tasks[0].class_names == ("bus", "test", "train")


@pytest.mark.parametrize("word", ["train", "training", "Train", "TRAINING"])
def test_messages_name_folders_that_are_there(tmp_path: Path, word: str) -> None:
    folder = splits(tmp_path / "own", **{word: 4, "test": 2})
    (folder / word / "oak").mkdir()
    with pytest.raises(DataError) as caught:
        read(folder)
    named = Path(str(caught.value).partition(": wanted")[0])
    assert named == folder / word / "oak" and named.is_dir()


@pytest.mark.parametrize("words", [("val", "validation"), ("train", "Training"), ("test", "testing")])
def test_two_folders_of_one_split_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    folder = splits(tmp_path / "own", **dict.fromkeys(("train", "test", *words), 2))
    with pytest.raises(DataError, match="wanted one folder of the .* split, got"):
        read(folder)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    folder = grow(tmp_path / "pets", {"cat": 4, "dog": 4})
    for name in ("cat/notes.txt", "cat/1.heic", "dog/2.avif", "dog/3", "lone.png", "README.md", "cat/.DS_Store"):
        (folder / name).touch()
    grow(folder / "dog", {"puppies": 3})
    files, folders = read(folder).warnings
    assert files.startswith("left out: 5 files (cat/1.heic, cat/notes.txt, dog/2.avif, ...): images end in .bmp, ")
    assert folders == "left out: 1 folder (dog/puppies) within class folders, or empty"


def test_an_empty_class_that_is_not_trained_is_counted(tmp_path: Path) -> None:
    folder = splits(tmp_path / "own", train=4, test=2)
    (folder / "test" / "oak").mkdir()
    assert read(folder).warnings == ("left out: 1 folder (test/oak) within class folders, or empty",)


def test_a_class_without_test_images_is_named(tmp_path: Path) -> None:
    folder = splits(tmp_path / "own", train=4, test=2)
    grow(folder / "train", {"oak": 3})
    assert read(folder).warnings == ("without test rows: 1 class (oak)",)


def test_two_spellings_of_a_class_in_two_splits_are_one(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "châtaignier") for form in ("NFC", "NFD"))
    grow(tmp_path / "own" / "train", {one: 5, "elm": 5})
    grow(tmp_path / "own" / "test", {two: 2, "elm": 2})
    dataset = read(tmp_path / "own")
    assert dataset.tasks[0].class_names == (one, "elm")
    assert all((dataset.image_root / path).is_file() for rows in dataset.splits.values() for path in rows.paths)
    grow(tmp_path / "own" / "train", {two: 5})
    with pytest.raises(DataError, match="read the same in a prompt"):
        read(tmp_path / "own")


def test_an_own_folder_of_a_catalogues_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grow(tmp_path / "pets", {"cat": 4, "dog": 4})
    (spec,) = CATALOG.resolve(["pets"])
    with pytest.raises(DataError, match="the folder 'pets' here is taken with --dataset ./pets"):
        read_dataset(spec, tmp_path / "data")
    (own,) = CATALOG.resolve(["./pets"])
    assert read_dataset(own, tmp_path / "data").tasks[0].class_names == ("cat", "dog")
    (spec,) = CATALOG.resolve(["kaggle_flower"])
    grow(tmp_path / "data" / spec.layout.directory / spec.layout.images, {"rose": 4, "tulip": 4})
    assert read_dataset(spec, tmp_path / "data").notes == ()
    (tmp_path / "kaggle_flower").mkdir()
    (note,) = read_dataset(spec, tmp_path / "data").notes
    assert note.endswith("for the folder 'kaggle_flower' here give ./kaggle_flower")
    monkeypatch.chdir(tmp_path / "data")
    assert read_dataset(spec, Path(".")).notes == ()
