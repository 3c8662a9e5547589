"""What `cptlite cache` and `cptlite datasets` say of what is left out, doubled or short, and ``--strict``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from trees import draw_classes
from typer.testing import CliRunner, Result

from cptlite.cli import app

CACHE = ("cache", "--backbone", "random:demo", "--dataset")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doubled(here: Path) -> str:
    """Make own splits whose test folder holds a training image under another name."""
    for split in ("train", "val", "test"):
        draw_classes(here / "own" / split, ["ash", "elm"], images=2)
    for split, colour in (("val", b"\0"), ("test", b"\1")):
        for path in (here / "own" / split).glob("*/*.png"):
            path.write_bytes(path.read_bytes() + colour)  # behind the end of the image: other bytes
    (here / "own" / "test" / "elm" / "7.png").write_bytes((here / "own" / "train" / "elm" / "00.png").read_bytes())
    return "./own"


SAME = "warning: own: the same bytes in train and test: 1 (the first: test/elm/7.png is train/elm/00.png)"


def test_the_same_bytes_in_train_and_test(here: Path) -> None:
    word = doubled(here)
    done = run(*CACHE, word, "--strict")
    assert done.exit_code == 3 and not Path("cache/random-demo/own.h5").exists()
    assert (
        "error: --strict wants data of which nothing is left out, doubled or short, got\n  own: the same" in done.stderr
    )
    done = run(*CACHE, word)
    assert done.exit_code == 0 and SAME in done.stderr.splitlines()
    done = run(*CACHE, word)  # nothing is read where all is there
    assert done.exit_code == 0 and "warning" not in done.stderr
    assert run(*CACHE, word, "--strict").exit_code == 3


def test_json_holds_notes_and_warnings(here: Path) -> None:
    done = run(*CACHE, doubled(here), "--json")
    (facts,) = json.loads(done.stdout)["results"]
    assert facts["dataset"] == "own"
    assert facts["notes"] == [] and SAME.endswith(facts["warnings"][0])


def test_sound_data_pass_strict(here: Path) -> None:
    draw_classes(here / "leaves", ["ash", "elm"], images=6)
    done = run(*CACHE, "./leaves", "--strict")
    assert done.exit_code == 0 and "warning" not in done.stderr


def test_strict_leaves_no_bad_image_out(here: Path) -> None:
    draw_classes(here / "leaves", ["ash", "elm"], images=6)
    assert run(*CACHE, "./leaves", "--strict", "--skip-bad").exit_code == 2


def test_columns_and_separator(here: Path) -> None:
    draw_classes(here / "leaves", ["ash", "elm"], images=6)
    rows = "".join(f"leaves/{name}/{i:02}.png;{name}\n" for name in ("ash", "elm") for i in range(6))
    (here / "x.csv").write_text("file;kind\n" + rows)
    done = run(*CACHE, "x.csv")
    assert done.exit_code == 3 and "--path-column and --label-column" in done.stderr
    done = run(*CACHE, "x.csv", "--path-column", "file", "--label-column", "kind")
    assert done.exit_code == 0 and "note: x: columns separated by semicolons" in done.stderr.splitlines()
    assert run(*CACHE, "./leaves", "--path-column", "file").exit_code == 2


def test_a_fifo_among_images_is_counted_and_hangs_nothing(here: Path) -> None:
    draw_classes(here / "leaves", ["ash", "elm"], images=6)
    os.mkfifo(here / "leaves" / "ash" / "x\x1b[31m.png")
    done = run(*CACHE, "./leaves")
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("unreadable")]
    assert line.endswith("ash/x\\x1b[31m.png: a FIFO, not a file")
    assert run(*CACHE, "./leaves", "--skip-bad").exit_code == 0


def test_datasets_shows_them_too(here: Path) -> None:
    draw_classes(here / "leaves", ["ash", "elm"], images=6)
    (here / "leaves" / "ash" / "notes.txt").touch()
    done = run("datasets", "./leaves")
    assert done.exit_code == 0 and "  warning   left out: 1 file (ash/notes.txt): images end in" in done.stdout
    done = run("datasets", "./leaves", "--strict")
    assert done.exit_code == 3 and "leaves: left out: 1 file" in done.stderr
    (facts,) = json.loads(run("datasets", "./leaves", "--json").stdout)["results"]
    assert facts["notes"] == [] and facts["warnings"][0].startswith("left out: 1 file")
