"""Tests of cptlite.datasets.lists: FGVC-Aircraft's text files."""

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
