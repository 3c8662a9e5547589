"""Tests of cptlite.datasets.text_files: what is read, what is refused, and what a terminal is shown."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.images import UnreadableImageError, open_rgb
from cptlite.datasets.text_files import read_json, read_lines, read_text, shown
from cptlite.errors import CptliteError, DataError

CATALOG = load_catalog()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket may be 100 letters at most
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL = {
    "a FIFO": fifo,
    "a socket": listening,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}
READERS: dict[str, Callable[[Path], object]] = {
    "text": read_text,
    "lines": read_lines,
    "json": read_json,
    "image": open_rgb,
    "csv": lambda path: read_dataset(CATALOG.resolve([str(path)])[0], Path("nowhere")),
    "manifest": lambda path: CATALOG.resolve([str(path)]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_looked_at_before_they_are_opened(tmp_path: Path, kind: str, reader: str) -> None:
    path = tmp_path / {"csv": "x.csv", "manifest": "x.toml"}.get(reader, "x.jpg")
    SPECIAL[kind](path)
    if (reader, kind) == ("csv", "a folder"):
        pytest.skip("a folder of class folders may have any name")
    with pytest.raises((CptliteError, UnreadableImageError), match=f"{kind}|got another file"):
        READERS[reader](path)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
def test_special_split_files_and_lists(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "dtd"
    (folder / "images").mkdir(parents=True)
    SPECIAL[kind](folder / "split_zhou_DescribableTextures.json")
    with pytest.raises(DataError, match=f"split_zhou_DescribableTextures.json: wanted a file, got {kind}"):
        read_dataset(CATALOG.datasets["dtd"], tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{", "NaN", '{"a": Infinity}', "[-Infinity]", "1" * 5000, "[" * 50_000, '{"a":' * 50_000, "", '{"a": "\x01"}'],
)
def test_bad_json_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="x.json: wanted a JSON file") as caught:
        read_json(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "1" * 5000,
        "a = " + "[" * 50_000,
        "a = " + "{b = " * 50_000,
        "datasets = nan",
        "[datasets.x]\nseed = inf",
    ],
)
def test_bad_toml_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(CptliteError, match="x.toml") as caught:
        CATALOG.resolve([str(path)])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "split", ["/etc/*.json", "***.json", "x" * 5000 + ".json", "[*.json", "../*/../*.json", "a\u00e9*.csv"]
)
def test_a_manifest_of_an_odd_pattern_is_one_error(tmp_path: Path, split: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'[datasets.x]\nsplit = "{split}"\n', encoding="utf-8")
    with pytest.raises(DataError, match="dataset 'x': wanted its files"):
        read_dataset(*CATALOG.resolve([str(path)]), tmp_path)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain é 鳥", "plain é 鳥"),
        ("a\nerror: b", "a\\nerror: b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202egpj", "a\\u202egpj"),
        ("\udcff", "\\udcff"),
        ("a\r\t\0", "a\\r\\t\\x00"),
    ],
)
def test_shown(text: str, written: str) -> None:
    assert shown(text) == written


@pytest.mark.parametrize("content", ["é".encode("utf-16-le"), b"\xff\xfe\x00", b"\xe9"])
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match="save the file as UTF-8"):
        read_text(tmp_path / "x.txt")


def test_lines_end_where_an_editor_ends_them(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("a\r\nb\x85c\u2028d\re\n\n f \n".encode())
    assert read_lines(tmp_path / "x.txt") == [(1, "a"), (2, "b\x85c\u2028d"), (3, "e"), (5, "f")]


ESC = "\x1b]0;owned\x07\nerror: all is lost"


def hostile(root: Path, kind: str) -> str:
    """Make data whose names steer a terminal; return the word for it."""
    folder = root / f"x{ESC}"
    folder.mkdir()
    if kind == "csv":
        (folder / "x.csv").write_text("path,label\n")
        return str(folder / "x.csv")
    if kind == "manifest":
        (folder / "x.toml").write_text("[datasets.x]\nfoo = 1\n")
        return str(folder / "x.toml")
    if kind == "class":
        for name in ("a", f"b{ESC}"):
            (folder / name).mkdir()
            (folder / name / "1.jpg").touch()
    if kind == "left out":
        for name in ("a", "b"):
            (folder / name).mkdir()
            (folder / name / "1.jpg").touch()
            (folder / name / f"notes{ESC}").touch()
    if kind == "no images":
        (folder / f"c{ESC}").mkdir()
        (folder / "d").mkdir()
    return str(folder)


@pytest.mark.parametrize("kind", ["empty", "csv", "manifest", "class", "left out", "no images"])
def test_names_do_not_steer_the_terminal(tmp_path: Path, kind: str) -> None:
    try:
        dataset = read_dataset(CATALOG.resolve([hostile(tmp_path, kind)])[0], Path("nowhere"))
        said = "".join(dataset.warnings) + dataset.name + dataset.tasks[0].name
        assert "left out" in said
    except CptliteError as error:
        said = str(error)
    assert "\x1b" not in said and "\n" not in said and "\x07" not in said
