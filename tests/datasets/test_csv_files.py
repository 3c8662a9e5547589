"""Tests of cptlite.datasets.csv_files: a user's CSV as spreadsheets, Windows and macOS write it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from cptlite.datasets import Dataset, load_catalog, read_dataset, with_columns
from cptlite.errors import DataError, UsageError

CATALOG = load_catalog()


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
        ("path:label\n1.jpg:a\n", "separated by commas"),
        ("path,label\n", "wanted images, found none"),
        ("path,label\n1.jpg,a\n2.jpg\n", r"line 3: wanted 2 fields as the first line has, got 1 \(2.jpg\)"),
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


SAME = ["path,label,note", "a/1.jpg,tit,", "a/2.jpg,auk,x", "b/3.jpg,tit,", "b/4.jpg,auk,"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_way_of_saving_a_table_gives_the_same_rows(
    tmp_path: Path, separator: str, ends: str, encoding: str
) -> None:
    (tmp_path / "plain").mkdir()
    plain = read_csv(tmp_path / "plain", "\n".join(SAME))
    text = ends.join(SAME).replace(",", separator) + ends
    (tmp_path / "my birds.csv").write_bytes(text.encode(encoding))
    (spec,) = CATALOG.resolve([str(tmp_path / "my birds.csv")])
    dataset = read_dataset(spec, Path("nowhere"))
    assert dataset.split_sha256 == plain.split_sha256
    words = {",": (), ";": ("columns separated by semicolons",), "\t": ("columns separated by tabs",)}
    assert dataset.notes == words.get(separator, ("columns separated by bars",))


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\npath;label\n1.jpg;a\n2.jpg;b\n3.jpg;a\n4.jpg;b",
        '"path";"label"\n"1.jpg";"a"\n"2.jpg";"b"\n"3.jpg";"a"\n"4.jpg";"b"',
        'path, label\n1.jpg, "a"\n2.jpg, "b"\n3.jpg, a\n4.jpg, b\n,\n',
        "path;label\n1.jpg;a\n2.jpg;b\n;\n\n3.jpg;a\n4.jpg;b",
    ],
)
def test_what_spreadsheets_add_is_passed_over(tmp_path: Path, text: str) -> None:
    dataset = read_csv(tmp_path, text)
    assert dataset.tasks[0].class_names == ("a", "b")
    assert sum(map(len, dataset.splits.values())) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.jpg,albatross, laysan\n", r"line 2: wanted 2 fields .* got 3 \(1.jpg,albatross,laysan\)"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b\n", "line 3: wanted 3 fields as the first line has, got 2"),
        ("path;label\n1.jpg;a;b\n", 'quote a field that holds the separator: "tit; blue"'),
        ("sep=;\npath;label\n1.jpg;a\n2.jpg\n", "line 4: wanted 2 fields"),
        ('path,label\n1.jpg,"a\nb",c\n', "line 3: wanted 2 fields"),
        ('path,label\n1.jpg,"a\n2.jpg,b\n', "unclosed quote"),
        ('path,label\n1.jpg,"a"b\n', "cannot read it as one"),
        ("path,label,path\n1.jpg,a,2.jpg\n", "wanted one column 'path', got two"),
        ("path,label\n1.jpg,a\n./1.jpg,b\n", "line 3: .*got './1.jpg' a second time"),
        ("path,label\na/1.jpg,a\na\\1.jpg,b\n", "got 'a/1.jpg' a second time"),
        ("path,label\nC:\\data\\1.jpg,a\n2.jpg,b\n", "got 'C:/data/1.jpg'"),
        ("path,label\n\\\\server\\share\\1.jpg,a\n2.jpg,b\n", "got '//server/share/1.jpg'"),
        ("path,label\n..\\1.jpg,a\n2.jpg,b\n", "got '../1.jpg'"),
        ("path,label\n1\0.jpg,a\n2.jpg,b\n", "inside its folder"),
        ('path,label\n1.jpg,"a\nerror: all lost"\n2.jpg,b\n', r"without control characters, got 'a\\nerror"),
        ("path,label\n1.jpg,a\x1b[31m\n2.jpg,b\n", r"got 'a\\x1b\[31m'"),
    ],
)
def test_rows_that_do_not_fit_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path, text)
    assert "\x1b" not in str(caught.value)


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    text = "id,File Name,Class,set\n1,a.jpg,tit,train\n2,b.jpg,auk,train\n3,c.jpg,tit,test\n4,d.jpg,auk,val\n"
    path = tmp_path / "birds.csv"
    path.write_text(text)
    options = 'path_column = "file name"\nlabel_column = "CLASS"\nsplit_column = "set"\n'
    (tmp_path / "m.toml").write_text(f'[datasets.birds]\nsplit = "birds.csv"\n{options}')
    dataset = read_dataset(*CATALOG.resolve([str(tmp_path / "m.toml")]), Path("nowhere"))
    assert [dataset.splits[split].paths for split in ("train", "val", "test")] == [
        ("b.jpg", "a.jpg"),
        ("d.jpg",),
        ("c.jpg",),
    ]
    specs = CATALOG.resolve([str(path)])
    with pytest.raises(DataError, match="got id,File Name,Class,set; name the columns.*--path-column"):
        read_dataset(specs[0], Path("nowhere"))
    (spec,) = with_columns(specs, "File Name", "class")
    assert sum(map(len, read_dataset(spec, Path("nowhere")).splits.values())) == 4
    with pytest.raises(DataError, match="wanted a first line klass and path"):
        read_dataset(with_columns(specs, None, "klass")[0], Path("nowhere"))


def test_columns_of_what_is_no_csv() -> None:
    with pytest.raises(UsageError, match="--label-column: wanted a CSV among the datasets, got dtd"):
        with_columns(CATALOG.resolve(["dtd"]), None, "class")
    dtd = CATALOG.resolve(["dtd"])
    assert with_columns(dtd, None, None) == dtd


def lay(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
@pytest.mark.parametrize("suffixes", [(".jpg", ".jpg"), (".JPG", ".jpg"), (".jpeg", ".JPEG")])
def test_the_disk_may_spell_names_otherwise(tmp_path: Path, forms: tuple[str, str], suffixes: tuple[str, str]) -> None:
    on_disk = [unicodedata.normalize(forms[0], f"img/châtaignier/é{i}{suffixes[0]}") for i in range(4)]
    written = [unicodedata.normalize(forms[1], f"img/châtaignier/é{i}{suffixes[1]}") for i in range(4)]
    lay(tmp_path, *on_disk)
    rows = [
        f"{path},{'ab'[index % 2]},{split}"
        for index, (path, split) in enumerate(zip(written, ["train", "train", "test", "test"], strict=True))
    ]
    dataset = read_csv(tmp_path, "path,label,split\n" + "\n".join(rows))
    assert {path for rows in dataset.splits.values() for path in rows.paths} == set(on_disk)
    assert dataset.warnings == ()


def test_two_files_that_could_be_meant_are_neither(tmp_path: Path) -> None:
    lay(tmp_path, "1.JPG", "1.Jpg", "2.jpg", "3.JPG", "3.jpg")
    dataset = read_csv(tmp_path, "path,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,a,test\n4.jpg,b,test\n")
    assert {path for rows in dataset.splits.values() for path in rows.paths} == {f"{i}.jpg" for i in range(1, 5)}
    assert dataset.warnings == (f"not in {tmp_path}: 2 listed images (1.jpg, 4.jpg)",)


def test_two_spellings_of_a_class_are_one(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "érable") for form in ("NFC", "NFD"))
    dataset = read_csv(tmp_path, f"path,label\n1.jpg,{one}\n2.jpg,{two}\n3.jpg,b\n4.jpg,b\n")
    assert dataset.tasks[0].class_names == ("b", one)


@pytest.mark.parametrize("through_link", [False, True])
def test_absolute_paths_below_the_images(tmp_path: Path, through_link: bool) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    folder = tmp_path / ("link" if through_link else "real")
    root = os.path.realpath(folder)
    rows = "".join(f"{root}/a/{i}.jpg,{'ab'[i % 2]}\n" for i in range(4))
    dataset = read_csv(folder, f"path,label\n{rows}")
    assert {path for rows in dataset.splits.values() for path in rows.paths} == {f"a/{i}.jpg" for i in range(4)}
    with pytest.raises(DataError, match="relative to the image folder"):
        read_csv(folder, f"path,label\n{root}x/1.jpg,a\n2.jpg,b\n")
    with pytest.raises(DataError, match="relative to the image folder"):
        read_csv(folder, f"path,label\n{root}/../1.jpg,a\n2.jpg,b\n")
