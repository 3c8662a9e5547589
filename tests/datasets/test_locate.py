"""Tests of finding datasets under the data root: what is missing, the expected tree, the state of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cptlite.datasets import dataset_status, expected_tree, find_dataset, load_catalog, missing, read_dataset
from cptlite.errors import DataError

CATALOG = load_catalog()
REPOSITORY = Path(__file__).parents[2]
IMAGES = Path(os.environ.get("CPTLITE_IMAGES_DIR", REPOSITORY.parent / "shared" / "images"))
needs_images = pytest.mark.skipif(not IMAGES.is_dir(), reason=f"no photographs in {IMAGES}; set CPTLITE_IMAGES_DIR")


def test_a_missing_dataset_names_the_paths_looked_for(tmp_path: Path) -> None:
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    spec = CATALOG.datasets["dtd"]
    with pytest.raises(DataError) as caught:
        read_dataset(spec, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"dataset 'dtd': wanted its files under {tmp_path}, some are missing")
    assert f"missing  {tmp_path}/dtd/split_zhou_DescribableTextures.json" in message
    assert f"found    {tmp_path}/dtd/images" in message
    assert f"missing  {tmp_path}/dtd/dtd/labels/train1.txt" in message
    assert "`cptlite datasets dtd` shows the whole tree" in message
    assert not find_dataset(spec, tmp_path)
    assert missing(spec, tmp_path)[0] == tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    assert caught.value.exit_code == 3


def test_a_missing_root_and_what_to_place_by_hand() -> None:
    with pytest.raises(DataError, match="nowhere does not exist") as caught:
        read_dataset(CATALOG.datasets["stanford_cars"], Path("nowhere"))
    assert "download links are dead: place cars_train/, cars_test/ and CoOp's" in str(caught.value)


def test_the_expected_tree_of_fgvc() -> None:
    assert expected_tree(CATALOG.datasets["fgvc_aircraft"], "data") == "\n".join(
        [
            "data/fgvc_aircraft/",
            "    variants.txt              one class name per line",
            "    images_variant_train.txt  lines 'ID name'",
            "    images_variant_val.txt    likewise",
            "    images_variant_test.txt   likewise",
            "    images/<ID>.jpg           the images",
            "or, as torchvision lays it out:",
            "data/fgvc-aircraft-2013b/data/",
            "    variants.txt              one class name per line",
            "    images_variant_train.txt  lines 'ID name'",
            "    images_variant_val.txt    likewise",
            "    images_variant_test.txt   likewise",
            "    images/<ID>.jpg           the images",
        ]
    )


@pytest.mark.parametrize("name", CATALOG.datasets)
def test_every_tree_can_be_drawn_and_every_absence_said(name: str, tmp_path: Path) -> None:
    spec = CATALOG.datasets[name]
    tree = expected_tree(spec)
    assert tree.startswith(f"<root>/{spec.layout.directory}/\n")
    assert "{" not in tree.replace("{train", "")
    status = dataset_status(spec, tmp_path)
    assert not status.found and status.missing and status.counts is None
    assert all(path.is_relative_to(tmp_path) for path in status.missing)


def test_a_status_tells_problems_instead_of_raising(tmp_path: Path) -> None:
    (tmp_path / "kaggle_flower_recognition" / "flowers").mkdir(parents=True)
    status = dataset_status(CATALOG.datasets["kaggle_flower"], tmp_path)
    assert status.found and status.counts is None
    assert "got an empty folder" in status.problem
    assert dataset_status(CATALOG.datasets["kaggle_flower"], tmp_path, count=False).problem == ""


@needs_images
@pytest.mark.parametrize(
    ("name", "counts", "num_classes"),
    [("dtd", (200, 60, 140), 10), ("kaggle_flower", (500, 200, 300), 5), ("plant_seedling", (240, 96, 144), 12)],
)
def test_real_photographs(name: str, counts: tuple[int, int, int], num_classes: int) -> None:
    spec = CATALOG.datasets[name]
    status = dataset_status(spec, IMAGES)
    assert (status.counts, status.num_classes, status.num_tasks) == (counts, num_classes, 1)
    assert status.folder == IMAGES / spec.layout.directory
    dataset = read_dataset(spec, IMAGES)
    for rows in dataset.splits.values():
        assert all((dataset.image_root / path).is_file() for path in rows.paths)


@needs_images
def test_a_part_of_a_dataset_is_told_apart_from_the_whole() -> None:
    dtd = dataset_status(CATALOG.datasets["dtd"], IMAGES)
    assert dtd.difference == (
        "200/60/140 rows and 10 classes here; 2820/1128/1692 rows and 47 classes in the full dataset"
    )
    assert dtd.split_source == "published split file split_zhou_DescribableTextures.json"
    assert dataset_status(CATALOG.datasets["plant_seedling"], IMAGES).difference == ""
