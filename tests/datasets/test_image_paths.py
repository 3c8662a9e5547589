"""Images that a user's words mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cptlite.datasets.image_paths import FoundImages, count_images, find_images
from cptlite.errors import DataError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.JPG", "b/notes.txt", "b/.hidden.png", "a/deep/3.webp", ".git/4.png", "empty/.keep"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("photos", ["photos/a/deep/3.webp", "photos/b/1.JPG", "photos/b/2.png"]),
        ("photos/b", ["photos/b/1.JPG", "photos/b/2.png"]),
        ("photos/b/2.png", ["photos/b/2.png"]),
        ("photos/b/notes.txt", ["photos/b/notes.txt"]),
        ("photos/*/*.png", ["photos/b/2.png"]),
        ("photos/**/*.*", ["photos/a/deep/3.webp", "photos/b/1.JPG", "photos/b/2.png"]),
        ("photos/**", ["photos/a/deep/3.webp", "photos/b/1.JPG", "photos/b/2.png"]),
        ("photos/[ab]", ["photos/a/deep/3.webp", "photos/b/1.JPG", "photos/b/2.png"]),
    ],
)
def test_words_mean_files_folders_and_patterns(tree: Path, word: str, found: list[str]) -> None:
    assert list(find_images(word)) == found
    assert count_images(word).images == len(found)


def test_other_files_are_counted(tree: Path) -> None:
    assert count_images("photos") == FoundImages(images=3, others=1)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("photos/empty", "wanted images in photos/empty, found none: give a folder"),
        ("photos/*.bmp", "wanted images in photos/*.bmp, found none"),
        ("photo", "at photo, found nothing there: check the path"),
        ("a\x07b", "at a\\x07b, found nothing there"),
    ],
)
def test_a_word_without_images_is_refused(tree: Path, word: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        count_images(word)
    assert message in str(error.value)


def test_only_other_files_are_refused(tree: Path) -> None:
    (tree / "texts").mkdir()
    (tree / "texts/a.txt").write_text("a")
    with pytest.raises(DataError, match="found none among 1 files"):
        count_images("texts")


def test_a_file_with_a_pattern_s_name_is_that_file(tree: Path) -> None:
    (tree / "a[1].png").write_bytes(b"")
    assert list(find_images("a[1].png")) == ["a[1].png"]


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "photos/again").symlink_to(tree / "photos")
    assert len(list(find_images("photos"))) == 3


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_said(tree: Path) -> None:
    (tree / "photos/a").chmod(0)
    with pytest.raises(DataError, match="could not read that folder"):
        count_images("photos")
    (tree / "photos/a").chmod(0o755)


def test_the_names_of_one_folder_alone_are_held(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    def scandir(path: str, scan=os.scandir):  # type: ignore[no-untyped-def]
        entered.append(str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_images("photos")
    assert next(found) == "photos/a/deep/3.webp"
    assert not any(path.endswith("/b") for path in entered)
