"""Tests of cptlite.datasets.imagenet, task_folders and torchvision_layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cptlite.datasets import Dataset, load_catalog, read_dataset
from cptlite.datasets.matlab import read_whole_numbers
from cptlite.errors import DataError

CATALOG = load_catalog()
# ImageNet's list gives these two one name.
WNIDS = {"n01440764": "tench", "n04008634": "missile", "n03773504": "missile", "n02012849": "crane bird"}


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def counts(dataset: Dataset) -> list[int]:
    return [len(dataset.splits[split]) for split in ("train", "val", "test")]


def classnames(root: Path, directory: str) -> None:
    write(root, f"{directory}/classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items()))


def test_imagenet(tmp_path: Path) -> None:
    classnames(tmp_path, "imagenet")
    for wnid in WNIDS:
        touch(tmp_path, *(f"imagenet/images/train/{wnid}/{i}.JPEG" for i in range(3)))
        touch(tmp_path, f"imagenet/images/val/{wnid}/9.JPEG")
    dataset = read_dataset(CATALOG.datasets["imagenet"], tmp_path)
    assert dataset.tasks[0].class_names == ("tench", "crane bird", "missile", "missile")
    assert counts(dataset) == [12, 0, 4]
    assert dataset.splits["test"].paths[1] == "val/n02012849/9.JPEG"


@pytest.mark.parametrize("name", ["imagenet_sketch", "imagenet_a", "imagenet_r"])
def test_imagenet_variants_are_test_only_and_may_lack_classes(tmp_path: Path, name: str) -> None:
    layout = CATALOG.datasets[name].layout
    classnames(tmp_path, layout.directory)
    touch(tmp_path, *(f"{layout.directory}/{layout.images}/{w}/1.jpg" for w in ("n04008634", "n01440764")))
    touch(tmp_path, f"{layout.directory}/{layout.images}/README.txt")
    dataset = read_dataset(CATALOG.datasets[name], tmp_path)
    assert dataset.tasks[0].class_names == ("tench", "missile")
    assert counts(dataset) == [0, 0, 2]


def test_imagenetv2_folders_are_numbered_by_the_list(tmp_path: Path) -> None:
    classnames(tmp_path, "imagenetv2")
    folder = "imagenetv2/imagenetv2-matched-frequency-format-val"
    touch(tmp_path, f"{folder}/0/1.jpeg", f"{folder}/3/1.jpeg")
    dataset = read_dataset(CATALOG.datasets["imagenetv2"], tmp_path)
    assert dataset.tasks[0].class_names == ("tench", "crane bird")
    assert dataset.splits["test"].paths == ("0/1.jpeg", "3/1.jpeg")
    touch(tmp_path, f"{folder}/4/1.jpeg")
    with pytest.raises(DataError, match="wanted folders 0 to 3, got '4'"):
        read_dataset(CATALOG.datasets["imagenetv2"], tmp_path)


def test_imagenet_refuses_unknown_ids_and_lines_without_a_name(tmp_path: Path) -> None:
    classnames(tmp_path, "imagenet-sketch")
    touch(tmp_path, "imagenet-sketch/images/n0/1.jpg", "imagenet-sketch/images/n01440764/1.jpg")
    with pytest.raises(DataError, match="ids of classnames.txt, got 'n0'"):
        read_dataset(CATALOG.datasets["imagenet_sketch"], tmp_path)
    write(tmp_path, "imagenet-sketch/classnames.txt", "n01440764\n")
    with pytest.raises(DataError, match="line 1: wanted 'wnid name'"):
        read_dataset(CATALOG.datasets["imagenet_sketch"], tmp_path)


FORMS = {
    "id name": "{wnid} {name}",
    "tab": "{wnid}\t{name}",
    "comma": "{wnid},{name}",
    "semicolon": "{wnid};{name}",
    "id number name": "{wnid} {number} {name}",
    "number id name": "{number} {wnid} {name}",
    "number, id, name": "{number},{wnid},{name}",
    "quoted": '{number}, {wnid}, "{name}"',
    "id name number": "{wnid} {name} {number}",
    "name id": "{name} {wnid}",
    "name, id": "{name}, {wnid}",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("words", ["tench|crane bird|3D printer|7 up", "tench|crane_bird|drumstick|sorrel, horse"])
def test_class_lists_of_other_forms(tmp_path: Path, form: str, words: str) -> None:
    lines = [
        form.format(wnid=f"n0000000{4 - number}", number=number, name=name)
        for number, name in enumerate(words.split("|"), start=1)
    ]
    write(tmp_path, "imagenet-sketch/classnames.txt", "\r\n".join(lines))
    touch(tmp_path, *(f"imagenet-sketch/images/n0000000{number}/1.jpg" for number in range(4)))
    dataset = read_dataset(CATALOG.datasets["imagenet_sketch"], tmp_path)
    assert dataset.tasks[0].class_names == tuple(reversed(words.split("|")))


def test_names_that_begin_with_numbers_stay_whole(tmp_path: Path) -> None:
    write(tmp_path, "imagenet-sketch/classnames.txt", "n00000000 707 airliner\nn00000001 tench\n")
    touch(tmp_path, "imagenet-sketch/images/n00000000/1.jpg", "imagenet-sketch/images/n00000001/1.jpg")
    names = read_dataset(CATALOG.datasets["imagenet_sketch"], tmp_path).tasks[0].class_names
    assert names == ("707 airliner", "tench")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n00000000 tench\nn00000000 fish\n", "line 2: wanted 'wnid name', got 'n00000000' a second time"),
        ("n00000000 tench\nn00000001\n", "line 2: wanted 'wnid name', got 'n00000001'"),
        ("n00000000 " + "x" * 2000, "line 1: wanted 'wnid name'"),
        ("n00000000" + " " * 50_000 + "x", "line 1: wanted 'wnid name'"),
        ("n00000000 tench\x1b[31m\nn00000001 x\n", "without control characters"),
        ("", "ids of classnames.txt, got 'n00000000'"),
    ],
)
def test_bad_class_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "imagenet-sketch/classnames.txt", text)
    touch(tmp_path, "imagenet-sketch/images/n00000000/1.jpg", "imagenet-sketch/images/n00000001/1.jpg")
    with pytest.raises(DataError, match=message):
        read_dataset(CATALOG.datasets["imagenet_sketch"], tmp_path)


@pytest.mark.parametrize(("first", "names"), [(0, ("fish", "tench")), (1, None)])
def test_numbered_folders_follow_the_numbers_of_the_list(tmp_path: Path, first: int, names: tuple | None) -> None:
    lines = f"n00000001 {first + 1} tench\nn00000000 {first} fish\n"
    write(tmp_path, "imagenetv2/classnames.txt", lines)
    folder = "imagenetv2/imagenetv2-matched-frequency-format-val"
    touch(tmp_path, f"{folder}/0/1.jpeg", f"{folder}/1/1.jpeg")
    if names is None:
        with pytest.raises(DataError, match="wanted numbers from 0 as the folders have, got 1 to 2"):
            read_dataset(CATALOG.datasets["imagenetv2"], tmp_path)
        return
    dataset = read_dataset(CATALOG.datasets["imagenetv2"], tmp_path)
    assert dataset.tasks[0].class_names == names
    assert dataset.splits["test"].paths == ("0/1.jpeg", "1/1.jpeg")


TASK_INFO = """id\ttask_name\ttask_desc\tlabel
1\tpants type\tclassify pants\tjeans, shorts
2\tpants_length\tclassify pants\tlong,short,cropped
3\tpants length\tclassify pants\twide,narrow
"""


def fashion(root: Path) -> Path:
    write(root, "fashion20/task_info.csv", TASK_INFO)
    for task, classes in enumerate((2, 3, 2)):
        for label in range(classes):
            touch(root, *(f"fashion20/images/{task}/{label}/{i}.jpg" for i in range(10)))
    return root


def test_fashion_is_one_dataset_of_several_tasks(tmp_path: Path) -> None:
    dataset = read_dataset(CATALOG.datasets["fashion20"], fashion(tmp_path))
    assert [task.id for task in dataset.tasks] == [
        "fashion20/pants-type",
        "fashion20/pants-length-1",
        "fashion20/pants-length-2",
    ]
    assert [task.name for task in dataset.tasks] == ["pants type", "pants length", "pants length"]
    assert dataset.tasks[0].class_names == ("jeans", "shorts")
    assert {task.metric for task in dataset.tasks} == {"mean_per_class_recall"}
    assert counts(dataset) == [35, 14, 21]
    rows = dataset.splits["train"]
    for path, label, task in zip(rows.paths, rows.labels, rows.tasks, strict=True):
        assert path.startswith(f"{task}/{label}/")


def test_fashion_templates_follow_the_task_number() -> None:
    words = CATALOG.datasets["fashion20"].tasks
    kinds = {"pants": 3, "tops": 5, "shoes": 7, "hat": 1, "socks": 2, "skirt": 1, "underwear": 1}
    found = [words[str(number)].template for number in range(20)]
    assert {kind: found.count(f"a photo of {{}}, a type of {kind}.") for kind in kinds} == kinds
    assert found[18] == found[3] != found[19]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK_INFO.replace("\t", ","), "line 2: wanted four columns separated by tabs"),
        (TASK_INFO.replace("jeans, shorts", "jeans, shorts, skort"), "images/0/2: wanted the images of class 'skort'"),
        (TASK_INFO.replace("jeans, shorts", "jeans"), "at least two classes, found 1"),
        (TASK_INFO.replace("jeans, shorts", "jeans,"), "class 1 has an empty one"),
        ("id\ttask_name\ttask_desc\tlabel\n", "wanted a header and one line per task"),
    ],
)
def test_bad_task_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    root = fashion(tmp_path)
    write(root, "fashion20/task_info.csv", text)
    with pytest.raises(DataError, match=message):
        read_dataset(CATALOG.datasets["fashion20"], root)


def torchvision_dtd(root: Path) -> None:
    for offset, split in enumerate(("train", "val", "test")):
        write(root, f"dtd/dtd/labels/{split}1.txt", f"banded/{offset}.jpg\npolka-dotted/{offset}.jpg\n")
    (root / "dtd/dtd/images").mkdir()


def torchvision_eurosat(root: Path) -> None:
    touch(root, *(f"eurosat/2750/{name}/{i}.jpg" for name in ("AnnualCrop", "River") for i in range(10)))


def torchvision_food(root: Path) -> None:
    for split, numbers in (("train", range(10)), ("test", range(10, 14))):
        lists = {name: [f"{name}/{i}" for i in numbers] for name in ("apple_pie", "waffles")}
        write(root, f"food-101/meta/{split}.json", json.dumps(lists))
    (root / "food-101/images").mkdir()


def torchvision_flowers(root: Path) -> None:
    (root / "flowers-102/jpg").mkdir(parents=True)
    savemat(root / "flowers-102/imagelabels.mat", {"labels": np.array([[1, 77, 1, 77, 1, 77]])})
    ids = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[6, 5]]}
    savemat(root / "flowers-102/setid.mat", {key: np.array(value) for key, value in ids.items()})


def torchvision_pets(root: Path) -> None:
    breeds = ("Abyssinian", "american_bulldog")
    for split, numbers in (("trainval", range(10)), ("test", range(10, 14))):
        lines = [f"{breed}_{i} {label} 1 1" for label, breed in enumerate(breeds, start=1) for i in numbers]
        write(root, f"oxford-iiit-pet/annotations/{split}.txt", "\n".join(lines))
    (root / "oxford-iiit-pet/images").mkdir()


def torchvision_sun(root: Path) -> None:
    touch(root, *(f"SUN397/a/abbey/{i}.jpg" for i in range(10)), "SUN397/ClassName.txt")
    touch(root, *(f"SUN397/a/apartment_building/outdoor/{i}.jpg" for i in range(10)))


def torchvision_caltech(root: Path) -> None:
    names = ("BACKGROUND_Google", "Faces", "Faces_easy", "accordion")
    touch(root, *(f"caltech101/101_ObjectCategories/{name}/{i}.jpg" for name in names for i in range(10)))


TORCHVISION: dict[str, tuple[Callable[[Path], None], tuple[str, str], list[int]]] = {
    "dtd": (torchvision_dtd, ("banded", "polka-dotted"), [2, 2, 2]),
    "eurosat": (torchvision_eurosat, ("Annual Crop Land", "River"), [10, 4, 6]),
    "food101": (torchvision_food, ("apple_pie", "waffles"), [16, 4, 8]),
    "oxford_flowers": (torchvision_flowers, ("pink primrose", "passion flower"), [2, 2, 2]),
    "oxford_pets": (torchvision_pets, ("abyssinian", "american_bulldog"), [16, 4, 8]),
    "sun397": (torchvision_sun, ("abbey", "outdoor apartment_building"), [10, 4, 6]),
    "caltech101": (torchvision_caltech, ("face", "accordion"), [10, 4, 6]),
}


@pytest.mark.parametrize(("name", "case"), TORCHVISION.items(), ids=TORCHVISION)
def test_torchvisions_layouts(tmp_path: Path, name: str, case: tuple) -> None:
    make, class_names, wanted = case
    make(tmp_path)
    dataset = read_dataset(CATALOG.datasets[name], tmp_path)
    assert (dataset.tasks[0].class_names, counts(dataset)) == (class_names, wanted)
    assert len({path for rows in dataset.splits.values() for path in rows.paths}) == sum(wanted)


def test_flower_paths_and_labels(tmp_path: Path) -> None:
    torchvision_flowers(tmp_path)
    rows = read_dataset(CATALOG.datasets["oxford_flowers"], tmp_path).splits["test"]
    assert rows.paths == ("image_00005.jpg", "image_00006.jpg")
    assert rows.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("where", ["beside", "own folder"])
def test_a_split_file_beside_torchvisions_images_wins(tmp_path: Path, name: str, where: str) -> None:
    spec = CATALOG.datasets[name]
    TORCHVISION[name][0](tmp_path)
    assert spec.torchvision is not None and spec.layout.split is not None
    folder = tmp_path / (spec.torchvision if where == "beside" else spec.layout).directory
    split = {"train": [["x/1.jpg", 0, "from the file"]], "val": [], "test": [["y/1.jpg", 1, "as well"]]}
    write(folder, spec.layout.split, json.dumps(split))
    dataset = read_dataset(spec, tmp_path)
    assert dataset.tasks[0].class_names == ("from the file", "as well")
    assert dataset.image_root.resolve() == (tmp_path / spec.torchvision.directory / spec.torchvision.images).resolve()


def test_food_lists_of_another_form_are_refused(tmp_path: Path) -> None:
    torchvision_food(tmp_path)
    write(tmp_path, "food-101/meta/test.json", "[]")
    with pytest.raises(DataError, match="image names by class"):
        read_dataset(CATALOG.datasets["food101"], tmp_path)


@pytest.mark.parametrize("file", ["setid.mat", "imagelabels.mat"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\0" * 1000,
        b"MATLAB 5.0 MAT-file" + bytes(105) + b"\x00\x01IM" + b"\xff" * 64,
        b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM" + bytes(64),
    ],
)
def test_garbage_instead_of_matlab_files_is_one_error(tmp_path: Path, file: str, content: bytes) -> None:
    torchvision_flowers(tmp_path)
    (path,) = tmp_path.rglob(file)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}: wanted a MATLAB file with whole numbers"):
        read_dataset(CATALOG.datasets["oxford_flowers"], tmp_path)


@pytest.mark.parametrize("values", [[1, 9999], [0, 1], [-1, 1], [1.5, 2], [np.nan, 1], [np.inf, 1]])
def test_image_numbers_out_of_range_are_refused(tmp_path: Path, values: list) -> None:
    torchvision_flowers(tmp_path)
    (path,) = tmp_path.rglob("setid.mat")
    savemat(path, {"trnid": values, "valid": [3], "tstid": [5]})
    with pytest.raises(DataError, match="setid.mat: wanted"):
        read_dataset(CATALOG.datasets["oxford_flowers"], tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_cut_or_flipped_matlab_file_is_read_or_one_error(tmp_path: Path, compressed: bool) -> None:
    """Scipy's reader ends the process on some of these."""
    torchvision_flowers(tmp_path)
    (path,) = tmp_path.rglob("setid.mat")
    savemat(path, {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]}, do_compression=compressed)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(content)
        try:
            read_dataset(CATALOG.datasets["oxford_flowers"], tmp_path)
        except DataError as error:
            assert "setid.mat" in str(error) or "wanted" in str(error)


@pytest.mark.parametrize("value", ["[]", '{"a": "b"}', '{"a": [1]}', '{"a": null}', '{"a": [["x"]]}', "NaN"])
def test_food_lists_of_other_types_are_refused(tmp_path: Path, value: str) -> None:
    torchvision_food(tmp_path)
    write(tmp_path, "food-101/meta/test.json", value)
    with pytest.raises(DataError, match="test.json: wanted"):
        read_dataset(CATALOG.datasets["food101"], tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float32", "float64"])
def test_matlab_numbers_of_every_kind(tmp_path: Path, dtype: str, compressed: bool) -> None:
    values = np.array([1, 2, 77, 102], dtype)
    savemat(tmp_path / "x.mat", {"other": "text", "a": values[:1], "ids": values}, do_compression=compressed)
    assert read_whole_numbers(tmp_path / "x.mat", "ids") == [1, 2, 77, 102]
    assert read_whole_numbers(tmp_path / "x.mat", "a") == [1]
    with pytest.raises(DataError, match="'text'.*there is none"):
        read_whole_numbers(tmp_path / "x.mat", "text")


def test_a_matlab_file_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", {"ids": np.zeros(10_000_000)}, do_compression=True)
    with pytest.raises(DataError, match="cut off or too large"):
        read_whole_numbers(tmp_path / "x.mat", "ids")
