"""Bad input of every kind ends in one message that says what to do, and in the right exit code: the list of kinds."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import pytest
from trees import draw_classes
from typer.testing import CliRunner

from cptlite.backbones import load_backbone
from cptlite.cli import app

BACKBONE = "random:demo"
CACHE = ("cache", "--backbone", BACKBONE, "--dataset")
TRAIN = ("train", "--shots", "1", "--epochs", "1")
QUICK = (*TRAIN, "--method", "coop-mt")
PROBE = ("train", "--shots", "1", "--method", "linear-probe")
ENCODED = Path("cache/random-demo/leaves.h5")
RUN = Path("runs/leaves/coop-mt-epochs1/random-demo/shots1-seed1")
SPLIT_FILE = "split_zhou_DescribableTextures.json"


def must(*words: str) -> None:
    """Call a command that succeeds."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Make each random backbone once for the whole file."""
    kept = functools.cache(load_backbone)

    def load(name: str, **options: Any) -> Any:
        return (kept if name.startswith("random:") else load_backbone)(name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cptlite.backbones.load_backbone", load)
        yield


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sound dataset of three classes, 2 training images each, and its cache."""
    folder = tmp_path_factory.mktemp("shelf")
    draw_classes(folder / "leaves", ["ash", "elm", "oak"])
    must(*CACHE, str(folder / "leaves"), "--cache-dir", str(folder / "cache"))
    return folder


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the shelf, at home in it too, and without a network."""

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is wrong; each spoils the folder it works in.


def write_split(content: str) -> None:
    """Make a DTD of two images whose split file holds some text."""
    draw_classes(Path("data/dtd/images"), ["banded", "dotted"], images=1)
    (Path("data/dtd") / SPLIT_FILE).write_text(content)


def split_of(first: str, empty: tuple[str, ...] = ()) -> str:
    """Rows of the two images in every split but some; the first image's path is given."""
    rows = [[first, 0, "banded"], ["dotted/00.png", 1, "dotted"]]
    return json.dumps({split: [] if split in empty else rows for split in ("train", "val", "test")})


def split_file(content: str) -> Callable[[], None]:
    return lambda: write_split(content)


def cached_without(split: str) -> Callable[[], None]:
    """Cache nothing but a dataset without rows in a split."""

    def spoil() -> None:
        shutil.rmtree("cache")
        write_split(split_of("banded/00.png", empty=(split,)))
        must(*CACHE, "dtd")

    return spoil


def cached_with_one_class_to_train() -> None:
    shutil.rmtree("cache")
    content = json.loads(split_of("banded/00.png"))
    del content["train"][1]
    write_split(json.dumps(content))
    must(*CACHE, "dtd")


def written(path: str | Path, content: str | bytes) -> Callable[[], None]:
    return lambda: void(Path(path).write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None: ...


def classes(folder: str, *names: str) -> Callable[[], None]:
    return lambda: void(draw_classes(Path(folder), names))


def empty_folder() -> None:
    Path("empty").mkdir()


def empty_class() -> None:
    (draw_classes(Path("gap"), ["ash", "elm"]) / "oak").mkdir()


def names_of_latin_1() -> None:
    draw_classes(Path("latin"), ["ash", "elm"])
    try:
        os.rename("latin/ash", b"latin/fr\xeane")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")


def unreadable_image() -> None:
    Path("leaves/elm/00.png").write_bytes(b"no image")
    shutil.rmtree("cache")


def no_readable_image() -> None:
    shutil.rmtree("cache")
    for path in Path("leaves").rglob("*.png"):
        path.write_bytes(b"")


def namesake() -> None:
    draw_classes(Path("other/leaves"), ["fir", "yew"])


def name_of_60_tokens() -> None:
    rows = [f"leaves/{folder}/{index:02}.png,{folder},{split}" for folder in ("ash", "elm") for index, split in SPLIT]
    Path("long.csv").write_text("\n".join(["path,label,split", *rows]).replace(",elm,", f",{LONG_NAME},"))
    must(*CACHE, "long.csv")


SPLIT = ((0, "train"), (1, "test"))
LONG_NAME = " ".join(["maple"] * 60)


def checkpoint_of_another_model() -> None:
    import torch

    torch.save({"layer.weight": torch.zeros(2, 2)}, "clip.pt")


def small_clip(path: str) -> None:
    """Write a CLIP of one layer with other weights at every call."""
    from clip.model import CLIP
    from safetensors.torch import save_file

    text = {"context_length": 77, "vocab_size": 99, "transformer_width": 64, "transformer_heads": 1}
    vision = {"image_resolution": 32, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 16}
    save_file(CLIP(embed_dim=32, transformer_layers=1, **vision, **text).state_dict(), path)


def weights_changed_since() -> None:
    small_clip("clip.safetensors")
    must("cache", "--dataset", "leaves", "--backbone", "clip.safetensors")
    small_clip("clip.safetensors")


def foreign_hdf5() -> None:
    with h5py.File(ENCODED, "w") as file:
        file["numbers"] = [1, 2, 3]


def newer_schema() -> None:
    with h5py.File(ENCODED, "r+") as file:
        file.attrs["schema_version"] = 99


def cut_cache() -> None:
    ENCODED.write_bytes(ENCODED.read_bytes()[:3000])


def flipped_byte() -> None:
    """Damage one byte of the features."""
    with h5py.File(ENCODED) as file:
        place = file["train/features"].id.get_chunk_info(0).byte_offset
    content = bytearray(ENCODED.read_bytes())
    content[place + 7] ^= 1
    ENCODED.write_bytes(content)


def cache_of_another_backbone() -> None:
    shutil.move("cache/random-demo", "cache/random-demo-seed1")


def other_images_since() -> None:
    Path("leaves/ash/00.png").rename("leaves/ash/other.png")


def two_backbones() -> None:
    must("cache", "--dataset", "leaves", "--backbone", f"{BACKBONE}:1")


def other_views_beside() -> None:
    draw_classes(Path("coins"), ["dime", "penny"])
    must(*CACHE, "coins", "--views", "2")


def unfinished_pass() -> None:
    unreadable_image()
    assert CliRunner().invoke(app, [*CACHE, "leaves"]).exit_code == 1


def read_only_folder() -> None:
    Path("locked").mkdir(mode=0o555)


def finished_run() -> None:
    must(*QUICK)


def damaged_run(name: str, content: bytes) -> Callable[[], None]:
    """Finish a run, then damage a file of it; one to go on from makes it a run that was stopped."""

    def spoil() -> None:
        must(*QUICK)
        (RUN / name).write_bytes(content)
        if name in ("checkpoint.pt", "prompts.safetensors"):
            (RUN / "results.json").unlink()
        if name == "checkpoint.pt":
            (RUN / "prompts.safetensors").unlink()

    return spoil


def another_dataset() -> None:
    draw_classes(Path("needles"), ["fir", "yew"])
    must(*CACHE, "needles")


def results_cut_short() -> None:
    Path("runs").mkdir()
    Path("runs/results.json").write_text('{"method": ')


class Bad(NamedTuple):
    """A kind of bad input: what is typed, the exit code, what the message says, and what was done before."""

    kind: str
    words: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    spoil: Callable[[], None] = lambda: None


def leaves(backbone: str) -> tuple[str, ...]:
    return ("cache", "--dataset", "leaves", "--backbone", backbone)


KINDS = [
    # the command's own words
    Bad("unknown command", ("cach",), 2, ("Did you mean", "cache")),
    Bad("unknown flag", ("train", "--shot", "1"), 2, ("No such option", "--shots")),
    Bad("no number", ("train", "--shots", "many"), 2, ("--shots", "whole numbers")),
    Bad("no dataset given", ("cache", "--backbone", BACKBONE), 2, ("--dataset", "cptlite datasets")),
    Bad(
        "template without a place",
        (*TRAIN, "--method", "kgcoop", "--template", "a photo"),
        2,
        ("one {} for the class name", "'a photo'"),
    ),
    Bad("option of another method", (*QUICK, "--strength", "4"), 2, ("coop-mt has no option 'strength'",)),
    Bad("recipe of a probe", (*PROBE, "--recipe", "full"), 2, ("linear-probe has no option 'recipe'", "give one")),
    Bad(
        "recipe of a method with its own",
        (*TRAIN, "--method", "taskres", "--recipe", "full"),
        2,
        ("taskres is stepped as its own paper does", "epochs 100", "leave --recipe out"),
    ),
    # names
    Bad("unknown dataset", (*CACHE, "fgcv"), 2, ("'fgcv'", "did you mean 'fgvc'")),
    Bad("empty dataset", (*CACHE, ""), 2, ("dataset ''", "a folder, a CSV or a manifest")),
    Bad("suite without datasets", (*CACHE, "rs8"), 2, ("suite 'rs8'", "manifest")),
    Bad("unknown method", (*TRAIN, "--method", "sofcpt"), 2, ("'sofcpt'", "softcpt")),
    Bad("unknown variant", (*TRAIN, "--variant", "tata"), 2, ("'tata'", "nata, nats")),
    Bad("variant of others", (*QUICK, "--variant", "nata"), 2, ("coop-mt has no option 'variant'",)),
    Bad("unknown backbone", leaves("RN51"), 2, ("'RN51'", "RN50", "checkpoint's path")),
    Bad("random weights of unknown architecture", leaves("random:RN51"), 2, ("'RN51'", "random:NAME[:SEED]", "RN50")),
    Bad("random weights of no seed", leaves("random:demo:x"), 2, ("'x'", "SEED a whole number")),
    Bad("random weights of too large a seed", leaves(f"random:demo:{2**70}"), 2, ("below 2^63",)),
    Bad("unknown device", (*CACHE, "leaves", "--device", "gpu"), 2, ("'gpu'", "auto, cpu, cuda or cuda:N")),
    Bad("device of another kind", (*CACHE, "leaves", "--device", "meta"), 2, ("'meta'", "auto, cpu, cuda or cuda:N")),
    Bad("unknown precision", (*CACHE, "leaves", "--precision", "fp8"), 2, ("'fp8'", "float32, fp16, bf16")),
    # numbers
    Bad("no views", (*CACHE, "leaves", "--views", "0"), 2, ("views", "at least 1", "got 0")),
    Bad("crop over the whole", (*CACHE, "leaves", "--min-scale", "2"), 2, ("(0, 1]", "got 2")),
    Bad("unknown number type", (*CACHE, "leaves", "--dtype", "int8"), 2, ("float16 or float32", "'int8'")),
    Bad("empty batches of images", (*CACHE, "leaves", "--batch-size", "0"), 2, ("batch-size", "at least 1")),
    Bad("negative workers", (*CACHE, "leaves", "--workers", "-1"), 2, ("workers", "at least 0")),
    Bad("no shots", ("train", "--shots", "0"), 2, ("shots", "at least 1", "got 0")),
    Bad("more shots than images", ("train", "--shots", "100"), 2, ("got 100", "choose --shots from 1 to 2")),
    Bad("negative seed", (*TRAIN, "--seed", "-1"), 2, ("seed", "from 0 to", "got -1")),
    Bad("too large a seed", (*TRAIN, "--seed", str(2**70)), 2, ("seed", str(2**63 - 1))),
    Bad("no epochs", ("train", "--shots", "1", "--epochs", "0"), 2, ("epochs", "at least 1", "got 0")),
    Bad("negative epochs", ("train", "--shots", "1", "--epochs", "-5"), 2, ("epochs", "at least 1", "got -5")),
    Bad("empty batches", (*TRAIN, "--batch-size", "-1"), 2, ("batch-size", "at least 0")),
    Bad("learning rate 0", (*TRAIN, "--lr", "0"), 2, ("lr", "above 0", "got 0")),
    Bad("learning rate not a number", (*TRAIN, "--lr", "nan"), 2, ("lr", "above 0", "got nan")),
    Bad("momentum not a number", (*TRAIN, "--momentum", "inf"), 2, ("momentum", "got inf")),
    Bad("momentum of adamw", (*TRAIN, "--recipe", "full", "--momentum", "1"), 2, ("momentum", "below 1", "got 1.0")),
    Bad("optimizer", (*TRAIN, "--optimizer", "adan"), 2, ("optimizer", "'adan'", "sgd, adamw, adam")),
    Bad("recipe", (*TRAIN, "--recipe", "slow"), 2, ("recipe", "'slow'", "paper, released, full")),
    Bad(
        "class fraction", (*TRAIN, "--class-fraction", "1.5"), 2, ("class-fraction", "above 0 and at most 1", "got 1.5")
    ),
    Bad("diverging", (*QUICK, "--lr", "1e30", "--epochs", "6", "--warmup-epochs", "0"), 1, ("epoch 2", "smaller --lr")),
    Bad("diverging in the last step", (*QUICK, "--lr", "1e38", "--warmup-epochs", "0"), 1, ("epoch 1", "smaller --lr")),
    Bad("no context", (*TRAIN, "--context-length", "0"), 2, ("context-length", "from 1 to 75", "got 0")),
    Bad("context longer than CLIP reads", (*TRAIN, "--context-length", "80"), 2, ("context-length", "77", "got 80")),
    Bad(
        "context of too many words", (*QUICK, "--context-init", "leaf " * 80), 2, ("84 tokens", "77", "--context-init")
    ),
    Bad("context of no words", (*QUICK, "--context-init", " "), 2, ("at least one word",)),
    Bad("unknown position", (*TRAIN, "--position", "sideways"), 2, ("'sideways'", "end, middle, front")),
    Bad("unknown sub-network", (*TRAIN, "--sub-network", "square"), 2, ("'square'", "lin, linmean, lincls")),
    Bad(
        "cocoop jointly",
        (*TRAIN, "--method", "cocoop", "--no-separate"),
        2,
        ("cocoop learns one task at a time, got 2", "give --separate"),
        another_dataset,
    ),
    Bad("unknown text path", (*TRAIN, "--text-path", "slow"), 2, ("'slow'", "fused, plain")),
    # folders of images
    Bad(
        "dataset not under the root", (*CACHE, "dtd", "--root", "nowhere"), 3, ("nowhere/dtd", "--root or CPTLITE_DATA")
    ),
    Bad("no such folder", (*CACHE, "no/such/folder"), 2, ("no/such/folder", "found nothing")),
    Bad("no such user's folder", (*CACHE, "~no-such-user/x"), 2, ("~no-such-user/x", "found nothing")),
    Bad("empty folder", (*CACHE, "empty"), 3, ("an empty folder", "named after their classes"), empty_folder),
    Bad("class without images", (*CACHE, "gap"), 3, ("gap/oak", "add images", "remove the folder"), empty_class),
    Bad("one class", (*CACHE, "single"), 3, ("at least two classes", "'ash'"), classes("single", "ash")),
    Bad("a class twice", (*CACHE, "twice"), 3, ("'a b' and 'a_b'", "rename one"), classes("twice", "a b", "a_b")),
    Bad("two datasets of one name", (*CACHE, "leaves", "-d", "other/leaves"), 2, ("'leaves'", "rename"), namesake),
    Bad("names not in UTF-8", (*CACHE, "latin"), 3, ("UTF-8", "fr\\udceane", "rename it"), names_of_latin_1),
    Bad(
        "unreadable image",
        (*CACHE, "leaves"),
        1,
        ("elm/00.png: not an image\n", "could not read 1 of 12 images of leaves", "--skip-bad"),
        unreadable_image,
    ),
    Bad("no readable image", (*CACHE, "leaves", "--skip-bad"), 3, ("zero bytes", "check --root"), no_readable_image),
    # split files, CSVs and manifests
    Bad("split file of garbage", (*CACHE, "dtd"), 3, (SPLIT_FILE, "a JSON file"), split_file("{")),
    Bad("split file of other keys", (*CACHE, "dtd"), 3, ("'train', 'val' and 'test'", "'a'"), split_file('{"a": []}')),
    Bad(
        "split file of other rows",
        (*CACHE, "dtd"),
        3,
        (SPLIT_FILE, "[path, label, class name]", "train row 0"),
        split_file('{"train": [["banded/00.png"]], "val": [], "test": []}'),
    ),
    Bad(
        "split path upwards", (*CACHE, "dtd"), 3, ("'../../x.png'", "without '..'"), split_file(split_of("../../x.png"))
    ),
    Bad("split path absolute", (*CACHE, "dtd"), 3, ("'/x.png'", "inside its folder"), split_file(split_of("/x.png"))),
    Bad(
        "split label far too large",
        (*CACHE, "dtd"),
        3,
        (SPLIT_FILE, "without a gap", "no row has label 1, 2, 3, 4, 5;"),
        split_file(split_of("banded/00.png").replace(" 1, ", f" {10**12}, ")),
    ),
    Bad("split path not in UTF-8", (*CACHE, "dtd"), 3, ("UTF-8", "\\udce9"), split_file(split_of("\udce9.png"))),
    Bad("split path of nothing", (*CACHE, "dtd"), 1, ("x.png: missing", "--skip-bad"), split_file(split_of("x.png"))),
    Bad(
        "CSV without columns", (*CACHE, "a.csv"), 3, ("path,label[,split]", "x.png,red"), written("a.csv", "x.png,red")
    ),
    Bad(
        "CSV of other bytes", (*CACHE, "a.csv"), 3, ("save the file as UTF-8",), written("a.csv", b"path,label\n\xff,a")
    ),
    Bad("manifest with an unknown key", (*CACHE, "a.toml"), 2, ("'hue'",), written("a.toml", "[datasets.a]\nhue = 1")),
    Bad("manifest of garbage", (*CACHE, "a.toml"), 2, ("a.toml", "wanted TOML"), written("a.toml", "[datasets")),
    Bad("manifest of no datasets", (*CACHE, "a.toml"), 2, ("[datasets.NAME]", "got none"), written("a.toml", "")),
    Bad("manifest of nothing", (*CACHE, "b.toml"), 2, ("b.toml", "check the path")),
    # weights
    Bad("weights not here and no network", leaves("RN50"), 3, ("no network", ".cache/clip/RN50.pt", "--backbone demo")),
    Bad("no such checkpoint", leaves("no/such.pt"), 3, ("'no/such.pt'", "the path of a file")),
    Bad("checkpoint of garbage", leaves("clip.pt"), 3, ("clip.pt", "a JIT archive"), written("clip.pt", "garbage")),
    Bad("checkpoint of another model", leaves("clip.pt"), 3, ("OpenAI's key names",), checkpoint_of_another_model),
    # caches
    Bad(
        "nothing cached", ("train", "--cache-dir", "x"), 3, ("found none", "cptlite cache --dataset NAME --cache-dir x")
    ),
    Bad("dataset not cached", (*TRAIN, "--dataset", "dtd"), 3, ("found leaves", "cptlite cache --dataset dtd")),
    Bad("backbone not cached", (*TRAIN, "--backbone", "RN50"), 3, ("random:demo (leaves)", "--backbone RN50")),
    Bad("several backbones cached", TRAIN, 2, ("random:demo:1 (leaves)", "say which with --backbone"), two_backbones),
    Bad("no patch features", (*TRAIN, "--method", "plot"), 3, ("patch features", "--patches --force --dataset leaves")),
    Bad(
        "pooled features for those of patches",
        (*CACHE, "leaves", "--patches"),
        3,
        ("local is 0 there, 4 asked", "--force"),
    ),
    Bad("caches of other views", TRAIN, 3, ("different numbers of views", "--views"), other_views_beside),
    Bad("unfinished pass only", TRAIN, 3, ("its pass is not finished", "found none"), unfinished_pass),
    Bad("foreign HDF5 file", (*CACHE, "leaves"), 3, ("another kind of HDF5 file", "move it away"), foreign_hdf5),
    Bad("foreign HDF5 file only", TRAIN, 3, ("left out: cache/random-demo/leaves.h5", "found none"), foreign_hdf5),
    Bad("no HDF5 file", (*CACHE, "leaves"), 3, ("cannot be read as HDF5", "delete it"), written(ENCODED, "text")),
    Bad("cache of a later release", (*CACHE, "leaves"), 3, ("schema version 99", "--force"), newer_schema),
    Bad("cache cut short", (*CACHE, "leaves"), 3, ("leaves.h5", "delete it"), cut_cache),
    Bad("cache with a flipped byte, verified", ("verify",), 3, ("1 of 1 caches cannot be used",), flipped_byte),
    Bad("cache with a flipped byte, trained on", TRAIN, 3, ("leaves.h5 is damaged", "cache --force"), flipped_byte),
    Bad(
        "cache of another backbone",
        leaves(f"{BACKBONE}:1"),
        3,
        ("backbone is 'random:demo'",),
        cache_of_another_backbone,
    ),
    Bad(
        "checkpoint changed since, cached again",
        leaves("clip.safetensors"),
        3,
        ("weights_sha256 is ", "... there, ", "... asked", "--force"),
        weights_changed_since,
    ),
    Bad(
        "checkpoint changed since, trained on",
        (*TRAIN, "--backbone", "clip.safetensors"),
        3,
        ("weights_sha256 is ", "... there, ", "... asked", "--force"),
        weights_changed_since,
    ),
    Bad("images changed since", (*CACHE, "leaves"), 3, ("split_sha256 is ", " there, ", " asked"), other_images_since),
    Bad("other views", (*CACHE, "leaves", "--views", "3"), 3, ("views is 1 there, 3 asked", "--force")),
    Bad("other number type", (*CACHE, "leaves", "--dtype", "float32"), 3, ("dtype is 'float16' there",)),
    Bad("a file for a cache folder", (*CACHE, "leaves", "--cache-dir", "f"), 3, ("f/random-demo",), written("f", "")),
    Bad(
        "read-only cache folder",
        (*CACHE, "leaves", "--cache-dir", "locked"),
        3,
        ("locked", "may write"),
        read_only_folder,
    ),
    # runs
    Bad("no training rows", TRAIN, 3, ("dtd.h5 has no train rows", "zeroshot"), cached_without("train")),
    Bad("no test rows", TRAIN, 3, ("dtd.h5 has no test rows", "cache it anew"), cached_without("test")),
    Bad(
        "no validation rows for a probe, strictly",
        (*PROBE, "--strict"),
        3,
        ("--strict wants data", "no validation rows to choose on: linear-probe takes C 1 there"),
        cached_without("val"),
    ),
    Bad(
        "training rows of one class for a probe",
        PROBE,
        3,
        ("at least two classes of task 'dtd', found those of 1", "--method prototype"),
        cached_with_one_class_to_train,
    ),
    Bad(
        "name of 60 tokens around 16 context tokens",
        (*TRAIN, "--dataset", "long"),
        2,
        ("maple maple", "with 16 context tokens has 79 tokens", "takes 77", "shorten the name"),
        name_of_60_tokens,
    ),
    Bad(
        "run of another text path",
        (*QUICK, "--text-path", "plain"),
        2,
        ("text_path 'fused' there, 'plain' asked", "--force"),
        finished_run,
    ),
    Bad("configuration of a run damaged", QUICK, 3, ("config.json", "--force"), damaged_run("config.json", b"{")),
    Bad("results of a run damaged", QUICK, 3, ("results.json", "--force"), damaged_run("results.json", b"[]")),
    Bad(
        "checkpoint of a run damaged", QUICK, 3, ("checkpoint.pt", "--force"), damaged_run("checkpoint.pt", b"garbage")
    ),
    Bad("prompts of a run damaged", QUICK, 3, (str(RUN), "--force"), damaged_run("prompts.safetensors", b"garbage")),
    Bad("a file for a folder of runs", (*QUICK, "--out", "f"), 1, ("Not a directory: f/",), written("f", "")),
    Bad("nothing to report", ("report", "nowhere"), 3, ("nowhere", "cptlite train")),
    Bad("results cut short", ("report",), 3, ("results.json", "Train that run again"), results_cut_short),
]


def refuse_locked(patch: pytest.MonkeyPatch) -> None:
    """Let even the superuser meet a read-only folder."""
    make = os.mkdir

    def mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        if os.fspath(path).startswith("locked"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
        make(path, *arguments, **options)

    patch.setattr(os, "mkdir", mkdir)


@pytest.mark.parametrize("bad", KINDS, ids=lambda bad: bad.kind)
def test_bad_input(bad: Bad, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad.spoil()
    refuse_locked(monkeypatch)
    done = CliRunner().invoke(app, list(bad.words))
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == bad.code, done.output
    for words in bad.says:
        assert words in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ") or "─ Error ─" in line]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.output


def test_every_kind_has_its_own_name() -> None:
    assert len({bad.kind for bad in KINDS}) == len(KINDS)


@pytest.mark.slow
def test_as_a_process(here: Path) -> None:
    command = [sys.executable, "-m", "cptlite", *CACHE, "leaves", "--views", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 3
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message == done.stderr.splitlines()[-1], "last, where it is seen"
    assert "views is 1 there, 3 asked" in message
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_gpu_where_there_is_none_or_fewer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(app, [*CACHE, "leaves", "--device", "cuda"])
    assert done.exit_code == 2
    assert "--device cpu" in done.stderr
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    done = CliRunner().invoke(app, [*CACHE, "leaves", "--device", "cuda:2"])
    assert done.exit_code == 2
    assert "give cuda:0 to cuda:1" in done.stderr


@pytest.mark.parametrize(
    "wrong", [("--position", "sideways"), ("--shots", "100"), ("--lr", "1e38", "--warmup-epochs", "0")], ids=" ".join
)
def test_what_was_refused_does_not_stand_in_the_way(here: Path, wrong: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, [*QUICK, *wrong]).exit_code in (1, 2)
    must(*QUICK)


def test_names_beyond_ascii_are_no_bad_input(here: Path) -> None:
    draw_classes(here / "feuilles", ["châtaignier", "オーク", "клён"])
    must(*CACHE, "feuilles")
    must(*TRAIN, "--dataset", "feuilles")


def test_skip_bad_leaves_unreadable_images_out(here: Path) -> None:
    unreadable_image()
    must(*CACHE, "leaves", "--skip-bad")
    must(*TRAIN)
