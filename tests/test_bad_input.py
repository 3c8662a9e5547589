"""Bad input of every kind ends in one message that says what to do, and in the right exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cptlite.cli import app

BACKBONE = "random:demo"
CACHE = ("cache", "--backbone", BACKBONE, "--dataset")
TRAIN = ("train", "--shots", "1", "--epochs", "1")
SPLIT_FILE = "split_zhou_DescribableTextures.json"


def must(*words: str) -> None:
    """Call a command that succeeds."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


def draw_classes(folder: Path, names: list[str], images: int = 4) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(images):
            pixels = generator.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with a sound dataset of three classes and its cache."""
    folder = tmp_path_factory.mktemp("shelf")
    draw_classes(folder / "leaves", ["ash", "elm", "oak"])
    must(*CACHE, str(folder / "leaves"), "--cache-dir", str(folder / "cache"))
    yield folder


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the shelf."""
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_split(folder: Path, content: str) -> None:
    """Make a DTD of two images whose split file holds some text."""
    draw_classes(folder / "data/dtd/images", ["banded", "dotted"], images=1)
    (folder / "data/dtd" / SPLIT_FILE).write_text(content)


def split_of(path: str) -> str:
    rows = [[path, 0, "banded"], ["dotted/0.png", 1, "dotted"]]
    return json.dumps({"train": rows, "val": [], "test": rows[1:]})


def empty_folder(here: Path) -> None:
    (here / "empty").mkdir()


def one_class(here: Path) -> None:
    draw_classes(here / "single", ["ash"])


def same_class_twice(here: Path) -> None:
    draw_classes(here / "twice", ["sweet_chestnut", "sweet chestnut"])


def unreadable_image(here: Path) -> None:
    (here / "leaves/elm/0.png").write_bytes(b"no image")
    shutil.rmtree(here / "cache")


def no_readable_image(here: Path) -> None:
    shutil.rmtree(here / "cache")
    for path in here.glob("leaves/*/*.png"):
        path.write_bytes(b"")


def split_file_of_garbage(here: Path) -> None:
    write_split(here, "{")


def split_file_of_another_form(here: Path) -> None:
    write_split(here, json.dumps({"train": [["banded/0.png"]], "val": [], "test": []}))


def split_path_upwards(here: Path) -> None:
    write_split(here, split_of("../../../leaves/ash/0.png"))


def split_path_absolute(here: Path) -> None:
    write_split(here, split_of(str(here / "leaves/ash/0.png")))


def missing_image(here: Path) -> None:
    write_split(here, split_of("banded/no-such.png"))


def csv_without_labels(here: Path) -> None:
    (here / "list.csv").write_text("path,colour\nleaves/ash/0.png,red\n")


def manifest_with_unknown_key(here: Path) -> None:
    (here / "mine.toml").write_text('[datasets.mine]\ndirectory = "leaves"\ncolour = "red"\n')


def manifest_of_garbage(here: Path) -> None:
    (here / "mine.toml").write_text("[datasets")


def foreign_hdf5(here: Path) -> None:
    with h5py.File(here / "cache/random-demo/leaves.h5", "w") as file:
        file["numbers"] = [1, 2, 3]


def no_hdf5(here: Path) -> None:
    (here / "cache/random-demo/leaves.h5").write_bytes(b"no HDF5")


def cut_cache(here: Path) -> None:
    path = here / "cache/random-demo/leaves.h5"
    path.write_bytes(path.read_bytes()[:3000])


def cache_of_another_backbone(here: Path) -> None:
    shutil.move(here / "cache/random-demo", here / "cache/random-demo-seed1")


def other_images_since(here: Path) -> None:
    (here / "leaves/ash/0.png").rename(here / "leaves/ash/other.png")


def checkpoint_of_garbage(here: Path) -> None:
    (here / "clip.pt").write_bytes(b"no checkpoint")


def checkpoint_of_another_model(here: Path) -> None:
    import torch

    torch.save({"layer.weight": torch.zeros(2, 2)}, here / "clip.pt")


def file_for_a_cache_folder(here: Path) -> None:
    (here / "file").write_text("")


def run_of_another_configuration(here: Path) -> None:
    must(*TRAIN, "--method", "coop-mt")


def results_cut_short(here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs/results.json").write_text('{"method": ')


def name_of_75_tokens(here: Path) -> None:
    names = {"ash": "ash", "elm": " ".join(["maple"] * 75)}
    lines = [
        f"leaves/{folder}/{index}.png,{name},{split}"
        for folder, name in names.items()
        for index, split in enumerate(("train", "test"))
    ]
    (here / "long.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    must(*CACHE, "long.csv")


def nothing(here: Path) -> None: ...


CASES: list[tuple[Callable[[Path], None], tuple[str, ...], int, str]] = [
    # the command's own words
    (nothing, ("cach",), 2, "Did you mean"),
    (nothing, ("train", "--shot", "1"), 2, "--shots"),
    (nothing, ("train", "--shots", "many"), 2, "valid integer"),
    (nothing, ("cache", "--backbone", BACKBONE), 2, "--dataset"),
    # names
    (nothing, (*CACHE, "fgcv"), 2, "did you mean 'fgvc'"),
    (nothing, (*CACHE, "rs8"), 2, "manifest"),
    (nothing, (*TRAIN, "--method", "sofcpt"), 2, "softcpt"),
    (nothing, (*TRAIN, "--variant", "tata"), 2, "nata"),
    (nothing, (*TRAIN, "--method", "coop-mt", "--variant", "nata"), 2, "no variants"),
    (nothing, ("cache", "--dataset", "leaves", "--backbone", "RN51"), 2, "RN50"),
    (nothing, ("cache", "--dataset", "leaves", "--backbone", "random:RN51"), 2, "RN50"),
    (nothing, (*CACHE, "leaves", "--device", "gpu"), 2, "cuda"),
    (nothing, (*CACHE, "leaves", "--precision", "fp8"), 2, "float32"),
    # numbers
    (nothing, (*CACHE, "leaves", "--views", "0"), 2, "at least 1"),
    (nothing, (*CACHE, "leaves", "--min-scale", "2"), 2, "(0, 1]"),
    (nothing, (*CACHE, "leaves", "--dtype", "int8"), 2, "float16"),
    (nothing, (*CACHE, "leaves", "--batch-size", "0"), 2, "at least 1"),
    (nothing, (*CACHE, "leaves", "--workers", "-1"), 2, "at least 0"),
    (nothing, ("train", "--shots", "0"), 2, "shots"),
    (nothing, ("train", "--shots", "100"), 2, "from 1 to 2"),
    (nothing, (*TRAIN, "--seed", "-1"), 2, "seed"),
    (nothing, ("train", "--shots", "1", "--epochs", "0"), 2, "epochs"),
    (nothing, (*TRAIN, "--batch-size", "0"), 2, "batch-size"),
    (nothing, (*TRAIN, "--lr", "0"), 2, "lr"),
    (nothing, (*TRAIN, "--lr", "nan"), 2, "lr"),
    (nothing, (*TRAIN, "--lr", "1e30", "--epochs", "6", "--warmup-epochs", "0"), 1, "--lr"),
    (nothing, (*TRAIN, "--context-length", "-1"), 2, "context-length"),
    (nothing, (*TRAIN, "--context-length", "80"), 2, "77"),
    (nothing, (*TRAIN, "--position", "sideways"), 2, "middle"),
    (nothing, (*TRAIN, "--variant", "cata", "--sub-network", "quadratic"), 2, "linmean"),
    (nothing, (*TRAIN, "--text-path", "slow"), 2, "plain"),
    # data on disk
    (nothing, (*CACHE, "dtd", "--root", "nowhere"), 3, "nowhere"),
    (nothing, (*CACHE, "no/such/folder"), 2, "no/such/folder"),
    (empty_folder, (*CACHE, "empty"), 3, "empty"),
    (one_class, (*CACHE, "single"), 3, "class"),
    (same_class_twice, (*CACHE, "twice"), 3, "sweet chestnut"),
    (unreadable_image, (*CACHE, "leaves"), 1, "--skip-bad"),
    (no_readable_image, (*CACHE, "leaves", "--skip-bad"), 3, "could read none"),
    (split_file_of_garbage, (*CACHE, "dtd"), 3, SPLIT_FILE),
    (split_file_of_another_form, (*CACHE, "dtd"), 3, SPLIT_FILE),
    (split_path_upwards, (*CACHE, "dtd"), 3, "../../../leaves/ash/0.png"),
    (split_path_absolute, (*CACHE, "dtd"), 3, "leaves/ash/0.png"),
    (missing_image, (*CACHE, "dtd"), 1, "--skip-bad"),
    (csv_without_labels, (*CACHE, "list.csv"), 3, "label"),
    (manifest_with_unknown_key, (*CACHE, "mine.toml"), 2, "colour"),
    (manifest_of_garbage, (*CACHE, "mine.toml"), 2, "mine.toml"),
    # weights
    (nothing, ("cache", "--dataset", "leaves", "--backbone", "no/such.pt"), 3, "no/such.pt"),
    (checkpoint_of_garbage, ("cache", "--dataset", "leaves", "--backbone", "clip.pt"), 3, "clip.pt"),
    (checkpoint_of_another_model, ("cache", "--dataset", "leaves", "--backbone", "clip.pt"), 3, "clip.pt"),
    # caches
    (nothing, ("train", "--cache-dir", "nowhere"), 3, "cptlite cache --dataset NAME --cache-dir nowhere"),
    (nothing, (*TRAIN, "--dataset", "dtd"), 3, "cptlite cache --dataset dtd"),
    (nothing, (*TRAIN, "--backbone", "RN50"), 3, "--backbone RN50"),
    (foreign_hdf5, (*CACHE, "leaves"), 3, "another kind of HDF5 file"),
    (foreign_hdf5, TRAIN, 3, "found none"),
    (no_hdf5, ("verify",), 3, "1 of 1 caches"),
    (cut_cache, (*CACHE, "leaves"), 3, "leaves.h5"),
    (cache_of_another_backbone, ("cache", "--dataset", "leaves", "--backbone", f"{BACKBONE}:1"), 3, "random:demo"),
    (cache_of_another_backbone, (*TRAIN, "--backbone", f"{BACKBONE}:1"), 3, "random:demo"),
    (other_images_since, (*CACHE, "leaves"), 3, "split_sha256"),
    (nothing, (*CACHE, "leaves", "--views", "3"), 3, "views"),
    (file_for_a_cache_folder, (*CACHE, "leaves", "--cache-dir", "file"), 3, "file"),
    # runs
    (run_of_another_configuration, (*TRAIN, "--method", "coop-mt", "--lr", "0.1"), 2, "--force"),
    (file_for_a_cache_folder, (*TRAIN, "--method", "coop-mt", "--out", "file"), 1, "file"),
    (results_cut_short, ("report",), 3, "results.json"),
    (nothing, ("report", "nowhere"), 3, "cptlite train"),
    (name_of_75_tokens, (*TRAIN, "--dataset", "long"), 2, "maple"),
]


@pytest.mark.parametrize(("spoil", "words", "code", "advice"), CASES)
def test_bad_input(spoil: Callable[[Path], None], words: tuple[str, ...], code: int, advice: str, here: Path) -> None:
    spoil(here)
    done = CliRunner().invoke(app, list(words))
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == code, done.output
    assert advice in done.stderr
    assert done.stderr.count("error: ") + done.stderr.count(" Error ") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_cache_folder(here: Path) -> None:
    (here / "locked").mkdir(mode=0o555)
    done = CliRunner().invoke(app, [*CACHE, "leaves", "--cache-dir", "locked"])
    assert done.exit_code == 3
    assert "locked" in done.stderr


def test_a_cuda_device_where_there_is_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(app, [*CACHE, "leaves", "--device", "cuda"])
    assert done.exit_code == 2
    assert "--device cpu" in done.stderr


def test_names_beyond_ascii_are_no_bad_input(here: Path) -> None:
    draw_classes(here / "feuilles", ["châtaignier", "オーク", "клён"])
    must(*CACHE, "feuilles")
    must(*TRAIN, "--dataset", "feuilles")
