"""Tests of cptlite.datasets.lists: FGVC-Aircraft's text files and a user's CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from cptlite.datasets import Dataset, load_catalog, read_dataset
from cptlite.errors import DataError

CATALOG = load_catalog()
VARIANTS = ("707-320", "Boeing 717", "DC-9-30", "F-16A/B", "An-12")


def fgvc(root: Path, folder: str = "fgvc_aircraft") -> Path:
    (root / folder / "images").mkdir(parents=True)
    (root / folder / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    for offset, split in enumerate(("train", "val", "test")):
        lines = [f"{offset}{index:06d} {name}" for index, name in enumerate(VARIANTS)]
        (root / folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def read_fgvc(root: Path) -> Dataset:
    (spec,) = CATALOG.resolve(["fgvc"])
    return read_dataset(spec, root)


@pytest.mark.parametrize("folder", ["fgvc_aircraft", "fgvc-aircraft-2013b/data"])
def test_fgvc(tmp_path: Path, folder: str) -> None:
    dataset = read_fgvc(fgvc(tmp_path, folder))
    (task,) = dataset.tasks
    assert (task.id, task.name, task.metric) == ("fgvc_aircraft", "aircraft model", "mean_per_class_recall")
    assert task.class_names == VARIANTS
    assert dataset.image_root == tmp_path / folder / "images"
    assert dataset.splits["test"].paths == tuple(f"2{index:06d}.jpg" for index in range(5))
    assert dataset.splits["test"].labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images_variant_val.txt", "1 707-320\n2 Boing 717\n", r"line 2: .*got '2 Boing 717' \(did you mean 'Boeing"),
        ("images_variant_val.txt", "1\n", "line 1: wanted 'ID name'"),
        ("images_variant_val.txt", "../1 707-320\n", r"got '../1.jpg'"),
        ("variants.txt", "707-320\n707-320\nBoeing 717\nDC-9-30\nF-16A/B\nAn-12\n", "distinct class names"),
    ],
)
def test_bad_fgvc_files_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    root = fgvc(tmp_path)
    (root / "fgvc_aircraft" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_fgvc(root)


def read_csv(tmp_path: Path, text: str, encoding: str = "utf-8") -> Dataset:
    path = tmp_path / "my birds.csv"
    path.write_text(text, encoding=encoding)
    (spec,) = CATALOG.resolve([str(path)])
    return read_dataset(spec, Path("nowhere"))


def test_csv_without_a_split(tmp_path: Path) -> None:
    lines = [f"{name}/{index}.jpg,{name}" for name in ("tit", "auk") for index in range(10)]
    dataset = read_csv(tmp_path, "path,label\n" + "\n".join(lines))
    assert (dataset.name, dataset.tasks[0].name) == ("my_birds", "my birds")
    assert dataset.tasks[0].class_names == ("auk", "tit")
    assert [len(dataset.splits[split]) for split in ("train", "val", "test")] == [10, 4, 6]
    assert dataset.image_root == tmp_path


def test_csv_with_a_split_as_excel_saves_it(tmp_path: Path) -> None:
    text = 'Split, Path ,LABEL,extra\r\ntrain,a\\1.jpg,"tit, blue",x\r\nTrain,2.jpg,auk,\r\n'
    text += "validation,3.jpg,auk,\r\ntest,4.jpg,auk,\r\n\r\n"
    dataset = read_csv(tmp_path, text, "utf-8-sig")
    assert dataset.tasks[0].class_names == ("auk", "tit, blue")
    assert set(dataset.splits["train"].paths) == {"a/1.jpg", "2.jpg"}
    assert dataset.splits["val"].paths == ("3.jpg",)


def test_csv_with_test_rows_only(tmp_path: Path) -> None:
    dataset = read_csv(tmp_path, "path,label,split\n1.jpg,a,test\n2.jpg,b,test\n")
    assert len(dataset.splits["test"]) == 2 and len(dataset.splits["train"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted a first line path,label.*got nothing"),
        ("file,class\n1.jpg,a\n", "got file,class; name the columns"),
        ("path;label\n1.jpg;a\n", "separated by commas"),
        ("path,label\n", "wanted images, found none"),
        ("path,label\n1.jpg,a\n2.jpg\n", "line 3: wanted a new path and its label, got '2.jpg',''"),
        ("path,label\n1.jpg,a\n1.jpg,b\n", "got '1.jpg' a second time"),
        ("path,label\n1.jpg,a\n2.jpg,a\n", "at least two classes"),
        ("path,label\n1.jpg,a\n2.jpg,A\n", "distinct class names, got 'A' and 'a'"),
        ("path,label\n../1.jpg,a\n2.jpg,b\n", "inside its folder, got '../1.jpg'"),
        ("path,label\n/data/1.jpg,a\n2.jpg,b\n", "paths relative to the image folder"),
        ("path,label,split\n1.jpg,a,trian\n", "line 2: wanted split to be one of train.*got 'trian'"),
        ("path,label,split\n1.jpg,a,\n", "got ''; correct the line, or leave the column out"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b,train\n", "wanted images to test on, got only train"),
        ('path,label\n"1.jpg,a\n' + "x" * 140_000, "look for an unclosed quote"),
    ],
)
def test_bad_csvs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path, text)


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save the file as UTF-8"):
        read_csv(tmp_path, "path,label\n1.jpg,Bärlauch\n", "latin-1")
