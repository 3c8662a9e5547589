"""What torchvision says of its datasets, and the table of what it says where it cannot be asked."""

from __future__ import annotations

import inspect
import re

import pytest
import torchvision

from cptlite.datasets import DatasetSpec, load_catalog
from cptlite.download import sources
from cptlite.download.sources import FOLDERS, IN_METHODS, remote_files
from cptlite.errors import CptliteError, UsageError

INSTALLED = tuple(int(part) for part in torchvision.__version__.split(".")[:2])
SPECS = [spec for spec in load_catalog().datasets.values() if spec.download]


@pytest.mark.skipif(INSTALLED < (0, 29), reason="the table is of torchvision 0.29; earlier ones name older addresses")
@pytest.mark.parametrize("kind", IN_METHODS)
def test_the_table_is_what_the_method_says(kind: str) -> None:
    source = inspect.getsource(getattr(torchvision.datasets, kind).download)
    assert set(re.findall(r'"(https?://[^"]+)"', source)) == {IN_METHODS[kind][0]}
    assert re.findall(r'md5="([0-9a-f]{32})"', source) == [IN_METHODS[kind][1]]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_dataset_that_is_fetched_has_addresses_and_a_place(spec: DatasetSpec) -> None:
    kind = spec.download
    assert kind is not None
    files = remote_files(kind)
    assert all(re.fullmatch(r"https?://[\w./~-]+", file.url) and file.name for file in files)
    assert all(file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5) for file in files)
    assert spec.page and spec.torchvision
    directory = spec.torchvision.directory
    assert FOLDERS[kind] == "." or directory.split("/")[0] == FOLDERS[kind]


def test_checksums_are_known_of_all_but_one() -> None:
    assert {kind for kind in FOLDERS for file in remote_files(kind) if file.md5 is None} <= {"FGVCAircraft"}
    assert [file.name for file in remote_files("Flowers102")] == ["102flowers.tgz", "imagelabels.mat", "setid.mat"]


def test_unknown_classes_and_other_versions_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="wanted one of Caltech101, .* got 'MNIST'"):
        remote_files("MNIST")
    monkeypatch.delattr(torchvision.datasets.DTD, "_URL")
    with pytest.raises(CptliteError, match="does not say where DTD is"):
        remote_files("DTD")
    assert sources.remote_files("Food101")
