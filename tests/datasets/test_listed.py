"""Tests of cptlite.datasets.listed: paths of lists and the files that they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlite.datasets.listed import DiskNames, check_path, listed_path, path_key
from cptlite.errors import DataError

ROOT = Path("/data/images")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/1.jpg", "a/1.jpg"),
        (" a/1.jpg ", "a/1.jpg"),
        ("./a/1.jpg", "./a/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        ("\\a\\1.jpg", "a/1.jpg"),
        ("a\\b/1.jpg", "a/b/1.jpg"),
        (".\\a\\1.jpg", "./a/1.jpg"),
        ("/data/images/a/1.jpg", "a/1.jpg"),
        ("/data/imagesx/1.jpg", "/data/imagesx/1.jpg"),
        ("/etc/passwd", "/etc/passwd"),
        ("C:\\a\\1.jpg", "C:/a/1.jpg"),
        ("\\\\server\\share\\1.jpg", "//server/share/1.jpg"),
        ("", ""),
    ],
)
def test_listed_paths(text: str, path: str) -> None:
    assert listed_path(text, ROOT) == path


@given(st.text(st.sampled_from("ab./\\:~ \0é"), max_size=12))
def test_what_is_checked_stays_inside(text: str) -> None:
    path = listed_path(text, ROOT)
    try:
        check_path("x", path, Path("list"))
    except DataError:
        return
    assert path and not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
    assert (ROOT / path).is_relative_to(ROOT)


def test_path_key() -> None:
    assert path_key("./a//1.jpg") == path_key("a/b/../1.jpg") == "a/1.jpg"


def test_names_on_disk_are_read_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.JPG", "2.jpg"):
        (tmp_path / "a" / name).touch()
    disk = DiskNames(tmp_path)
    assert [disk.find(f"a/{name}") for name in ("1.jpg", "2.jpg", "2.JPG", "3.jpg")] == [
        "a/1.JPG",
        "a/2.jpg",
        "a/2.jpg",
        None,
    ]
    assert disk.find("./a/2.jpg") == "./a/2.jpg"  # as written, where that is there
    monkeypatch.setattr("cptlite.datasets.listed.os.listdir", None)
    assert disk.find("a/1.jpg") == "a/1.JPG"


@pytest.mark.parametrize("path", ["a/" * 3000 + "1.jpg", "x" * 5000, "a/b", "a"])
def test_what_no_disk_can_hold_is_not_there(tmp_path: Path, path: str) -> None:
    assert DiskNames(tmp_path).find(path) is None
