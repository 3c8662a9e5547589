"""Caches that reach out, claim too much or are of a damaged form are refused, and take nothing else down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from cache_fakes import FakeBackbone, make_dataset
from test_hostile_files import SPECIAL, make_special
from typer.testing import CliRunner

import cptlite.backbones.checkpoints
from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import CacheFolder, cache_files, list_caches, open_cache, open_caches, verify_cache
from cptlite.cache.encode import encode_dataset
from cptlite.cache.format import write_dataset, write_texts, write_value
from cptlite.cache.parts import MANIFEST, PartStore
from cptlite.cache.write import writing
from cptlite.cli import app
from cptlite.errors import CptliteError, DataError
from cptlite.runs.rows import check_caches

BACKBONE = cast(Backbone, FakeBackbone())
SECRET = np.full((21, 1, 8), 7, np.float16)
Damage = Callable[[h5py.File], Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    return encode_dataset(make_dataset(folder / "images"), BACKBONE, folder / "cache", patches=True, workers=0).path


@pytest.fixture
def path(honest: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt, with another cache beside it and a file that is nobody's business."""
    for name in ("drawn", "other"):
        target = tmp_path / "cache" / BACKBONE.slug / f"{name}.h5"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(honest.read_bytes())
        with h5py.File(target, "r+") as file:
            write_value(file, "dataset", name)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = SECRET
    SECRET.tofile(tmp_path / "secret.raw")
    return tmp_path / "cache" / BACKBONE.slug / "drawn.h5"


def outside(file: h5py.File, name: str) -> str:
    return str(Path(file.filename).parents[2] / name)


def instead(name: str, make: Callable[[h5py.File], Any]) -> Damage:
    """Put something else under a name."""

    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = make(file)

    return damage


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((21, 1, 8), np.float16)
    layout[:] = h5py.VirtualSource(outside(file, "secret.h5"), "numbers", (21, 1, 8))
    del file["train/features"]
    file["train"].create_virtual_dataset("features", layout)


def virtual_within(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((21, 1, 8), np.float16)
    layout[:] = h5py.VirtualSource(".", "train/local", (21, 3, 8))[:, :1]
    del file["train/features"]
    file["train"].create_virtual_dataset("features", layout)


def external_storage(file: h5py.File) -> None:
    del file["train/features"]
    where = [(outside(file, "secret.raw"), 0, SECRET.nbytes)]
    file["train"].create_dataset("features", SECRET.shape, SECRET.dtype, external=where)


def stored(name: str, **options: Any) -> Damage:
    """Store a dataset anew, another way."""

    def damage(file: h5py.File) -> None:
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=values, **options)

    return damage


def many_rows(names: tuple[str, ...], rows: int) -> Damage:
    def damage(file: h5py.File) -> None:
        for name in names:
            file["train"][name].resize(rows, axis=0)

    return damage


def as_type(name: str, dtype: Any) -> Damage:
    def damage(file: h5py.File) -> None:
        values = file[name][:]
        del file[name]
        parent, _, last = name.rpartition("/")
        write_dataset(file[parent], last, values.shape, dtype)[:] = values.astype(dtype)

    return damage


def variable_texts(file: h5py.File) -> None:
    texts = file["train/paths"].asstr()[:]
    del file["train/paths"]
    file.create_dataset("train/paths", data=texts, dtype=h5py.string_dtype(), chunks=(5,))


def without_one_checksum(file: h5py.File) -> None:
    file["train/features"].id.write_direct_chunk((0, 0, 0), SECRET.tobytes(), filter_mask=1)


def without_a_chunk(file: h5py.File) -> None:
    del file["test/features"]
    write_dataset(file["test"], "features", (10, 1, 8), np.float16)  # never written: would read as zeros


def attribute(name: str, value: Any, place: str = "/") -> Damage:
    def damage(file: h5py.File) -> None:
        del file[place].attrs[name]
        write_value(file[place], name, value)

    return damage


def variable_attribute(file: h5py.File) -> None:
    file.attrs["backbone"] = "fake:one"


def extra_task(file: h5py.File) -> None:
    file.copy("tasks/drawn%2Ffirst", "tasks/more")


FIRST = "/tasks/drawn%2Ffirst"
ROWS = ("features", "labels", "tasks", "paths", "local")
DAMAGES: dict[str, tuple[Damage, str]] = {
    "external link to features": (
        instead("train/features", lambda file: h5py.ExternalLink(outside(file, "secret.h5"), "numbers")),
        "'features' in '/train' is a link that leads elsewhere",
    ),
    "external link to a split": (
        instead("test", lambda file: h5py.ExternalLink(outside(file, "cache/fake-one/other.h5"), "test")),
        "'test' in '/' is a link",
    ),
    "external link to nothing": (
        instead("bad", lambda file: h5py.ExternalLink("nowhere", "x")),
        "'bad' in '/' is a link",
    ),
    "soft link within": (instead("test/labels", lambda file: h5py.SoftLink("/train/labels")), "is a link"),
    "soft link to itself": (instead("tasks", lambda file: h5py.SoftLink("/tasks")), "is a link"),
    "hard link within": (instead("test/labels", lambda file: file["test/tasks"]), "under two names"),
    "hard link in a circle": (instead("tasks", lambda file: file["/"]), "lacks|not a group"),
    "virtual dataset": (virtual, "lie in other files"),
    "virtual dataset within": (virtual_within, "lie in other files"),
    "external storage": (external_storage, "lie in other files"),
    "contiguous": (stored("train/features"), "not stored in chunks"),
    "without checksums": (stored("train/features", chunks=(21, 1, 8)), r"has the filters \[\]"),
    "without checksums of labels": (stored("test/labels", chunks=(10,)), r"has the filters \[\]"),
    "without checksums of names": (stored(f"{FIRST}/classnames", chunks=(3,)), r"has the filters \[\]"),
    "packed": (stored("train/features", chunks=(21, 1, 8), compression="gzip", fletcher32=True), "has the filters"),
    "shuffled": (stored("val/paths", chunks=(6,), shuffle=True, fletcher32=True), "has the filters"),
    "one chunk without checksum": (without_one_checksum, "has 336 bytes, wanted 340"),
    "a chunk that is not there": (without_a_chunk, "has 0 bytes, wanted 164"),
    "10^10 rows of features": (many_rows(("features",), 10**10), "bytes, wanted|different numbers"),
    "10^10 rows": (many_rows(ROWS, 10**10), "bytes, wanted"),
    "10^18 rows": (many_rows(ROWS, 10**18), "bytes, wanted"),
    "one row less": (many_rows(("labels",), 20), "different numbers"),
    "labels of 64 bits": (as_type("train/labels", np.int64), "holds int64, wanted int32"),
    "labels of half numbers": (as_type("train/labels", np.float16), "holds float16, wanted int32"),
    "features of 32 bits": (as_type("train/features", np.float32), "holds float32, wanted float16"),
    "features of texts": (as_type("train/features", "S4"), r"wanted float16"),
    "big-endian features": (as_type("train/features", ">f2"), "holds >f2, wanted float16"),
    "texts of variable length": (variable_texts, r"has the filters \[\]"),
    "patch features of more places": (attribute("local", 4), r"recorded are \(21, 4, 8\)"),
    "patch features nobody recorded": (attribute("local", 0), "holds .*'local'.* which it should not"),
    "more views": (attribute("views", 2), r"recorded are \(21, 2, 8\)"),
    "no views": (attribute("views", 0), "0 views"),
    "views in words": (attribute("views", "1"), "views is '1', wanted a value of int"),
    "a number as a backbone": (attribute("backbone", 3), "backbone is 3, wanted a value of str"),
    "control characters": (attribute("backbone", "RN50\x1b[2J"), "control characters"),
    "a line break": (attribute("dataset", "drawn\nerror: all is lost"), "control characters"),
    "text of variable length": (variable_attribute, "'backbone' is not one number or text"),
    "many numbers": (lambda file: file.attrs.create("views", np.zeros(9)), "'views' is not one number or text"),
    "another number type": (attribute("dtype", "float64"), "numbers of type 'float64'"),
    "more unreadable images": (attribute("bad_images", 5), "differs from their list"),
    "an extra dataset": (lambda file: write_dataset(file, "more", (1,), np.int32), "holds .*'more'"),
    "an extra dataset of a split": (lambda file: write_texts(file["val"], "more", ["x"]), "holds .*'more'"),
    "a split that lacks labels": (lambda file: file["val"].pop("labels"), "lacks .*'labels'"),
    "a split that is a dataset": (instead("val", lambda file: np.zeros(3)), "not a group"),
    "a dataset that is a group": (
        lambda file: (file["val"].pop("labels"), file["val"].create_group("labels")),
        "not a dataset",
    ),
    "a type in place of a dataset": (instead("val/labels", lambda file: np.dtype("f4")), "not a dataset"),
    "a task twice": (extra_task, "damaged"),
    "a task number that lacks": (attribute("index", 5, FIRST), r"are numbered \[1, 5\]"),
    "a task number in words": (attribute("index", "0", FIRST), "damaged"),
    "a task of another name": (attribute("id", "drawn/third", FIRST), "is described by"),
    "a metric that is not there": (attribute("metric", "auroc", FIRST), "scored by 'auroc'"),
    "a template that is a number": (attribute("template", 3, FIRST), "is described by"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_of_another_form_is_refused_and_stops_no_other(name: str, path: Path) -> None:
    damage, message = DAMAGES[name]
    verify_cache(path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        damage(file)
    for look in (open_cache, verify_cache):
        with pytest.raises(DataError, match=message):
            look(path)
    found = {summary.path.stem: summary for summary in list_caches(path.parents[1])}
    assert found["other"].complete and not found["drawn"].complete and found["drawn"].problem
    open_caches(path.parents[1], BACKBONE, ["other"])[0].close()
    for command, code in (("caches", 0), ("verify", 3)):
        done = CliRunner().invoke(app, [command, "--cache-dir", str(path.parents[1])], env={"COLUMNS": "300"})
        assert done.exit_code == code, done.output
        assert "other" in done.output and "\x1b[2J" not in done.output


def test_numbers_that_are_none_are_found_by_verify(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["test/features"][3, 0, 1] = np.nan
    with pytest.raises(DataError, match="numbers of '/test/features' are not finite"):
        verify_cache(path)


@pytest.mark.parametrize(("name", "value"), [("labels", 3), ("labels", -1), ("tasks", 2), ("tasks", -7)])
def test_rows_of_no_class_are_refused_before_they_are_trained_on(name: str, value: int, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["train"][name][2] = value
    with CacheFolder(path.parents[1]) as folder:
        caches = folder.open(BACKBONE, ["drawn"])
        with pytest.raises(DataError, match="damaged .row 2 of split 'train'"):
            check_caches(caches, [])


@pytest.mark.parametrize("kind", [*SPECIAL, "a link to nothing"])
def test_a_special_file_as_a_cache_is_not_opened(kind: str, path: Path) -> None:
    path.unlink()
    if kind == "a link to nothing":
        path.symlink_to("nowhere")
    else:
        make_special(kind, path)
    with pytest.raises(DataError, match="no feature cache at" if "link" in kind else f"got {kind}"):
        open_cache(path)
    assert [summary.complete for summary in list_caches(path.parents[1])] == [False, True]
    done = CliRunner().invoke(app, ["verify", "--cache-dir", str(path.parents[1])])
    assert done.exit_code == 3 and "ok " in done.output


@pytest.mark.slow
def test_structure_cut_and_zeroed_at_many_places_stops_no_other(path: Path) -> None:
    content, draw = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        place, size = int(draw.integers(len(content))), int(draw.integers(1, 200))
        spoilt = bytearray(content)
        if draw.random() < 0.3:
            del spoilt[place:]
        else:
            spoilt[place : place + size] = draw.bytes(size) if draw.random() < 0.5 else bytes(size)
        path.write_bytes(spoilt[: len(content)])
        found = {summary.path.stem: summary for summary in list_caches(path.parents[1])}
        assert found["other"].complete
        refused += not found["drawn"].complete
    assert refused > 30


WRITER = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"


def test_a_cache_open_for_writing_elsewhere_is_said_to_be_that(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="in use by another process") as caught:
            open_cache(path)
        assert "delete" not in str(caught.value)
        [problem] = [summary.problem for summary in list_caches(path.parents[1]) if not summary.complete]
        assert "in use by another process" in problem
        writer.communicate(b"")
    verify_cache(path)


def test_a_file_system_without_locks_is_said_to_be_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CptliteError, match=r"file system without locks .*--no-lock"), writing(path):
        pass
    with writing(path, lock=False):
        pass


def passes(folder: Path) -> PartStore:
    with open_cache(folder / BACKBONE.slug / "other.h5") as cache:
        store = PartStore.of_pass(
            folder / BACKBONE.slug / "new.h5", replace(cache.fingerprint, dataset="new"), 4, anew=False
        )
    store.prepare()
    store.write("train", 0, {"features": np.zeros((4, 1, 8))}, np.ones(4, bool))
    return store


@pytest.mark.parametrize("text", ["[]", "{}", "[" * 100_000, "9" * 5000, '{"fingerprint": 3}', "", "\x00", "PIPE"])
def test_a_damaged_manifest_of_an_unfinished_pass_stops_nothing(text: str, path: Path) -> None:
    store = passes(path.parents[1])
    (store.folder / MANIFEST).unlink()
    if text == "PIPE":
        os.mkfifo(store.folder / MANIFEST)
    else:
        (store.folder / MANIFEST).write_text(text)
    assert [summary.path.stem for summary in list_caches(path.parents[1])] == ["drawn", "other"]


@pytest.mark.parametrize("changes", [{"views": "x"}, {"dataset": "a\x1bb"}, {"dtype": 3}])
def test_a_manifest_that_agrees_with_its_folder_may_still_be_wrong(changes: dict[str, Any], path: Path) -> None:
    store = passes(path.parents[1])
    identity = {**store.identity, "fingerprint": {**store.identity["fingerprint"], **changes}}
    hostile = PartStore(store.target, identity)
    store.folder.rename(hostile.folder)
    (hostile.folder / MANIFEST).write_text(json.dumps(identity))
    assert [summary.path.stem for summary in list_caches(path.parents[1])] == ["drawn", "other"]


def test_odd_files_among_the_parts_count_for_nothing(path: Path) -> None:
    store = passes(path.parents[1])
    os.mkfifo(store.folder / "train-000001.npz")
    (store.folder / "train-x.npz").write_bytes(b"?")
    (store.folder / "val-000000.npz").symlink_to("nowhere")
    np.savez(store.folder / "test-000000.npz", ok=np.array(["x"]))
    np.savez_compressed(store.folder / "test-000001.npz", ok=np.ones(4, bool))
    [found] = [summary for summary in list_caches(path.parents[1]) if summary.dataset == "new"]
    assert found.rows == {"train": 4, "val": 0, "test": 0}


def test_a_path_that_a_cache_names_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(cptlite.backbones.checkpoints, "read_state_dict", opened.append)
    secret = path.parents[2] / "secret.raw"
    for file in cache_files(path.parents[1]):
        with h5py.File(file, "r+") as cache:
            write_value(cache, "backbone", str(secret))
    for given in ((), ("--backbone", "demo"), ("--backbone", "another.pt")):
        done = CliRunner().invoke(app, ["train", "--cache-dir", str(path.parents[1]), *given])
        assert done.exit_code in (2, 3) and str(secret) in done.output, done.output
    assert not opened


def test_train_goes_on_beside_a_damaged_cache(tmp_path: Path) -> None:
    backbone = load_backbone("random:demo", device="cpu")
    dataset = make_dataset(tmp_path / "images", sizes=(12, 0, 6))
    paths = [
        encode_dataset(replace(dataset, name=name), backbone, tmp_path / "cache", workers=0).path
        for name in ("sound", "spoilt")
    ]
    with h5py.File(paths[1], "r+") as file:
        del file["train/labels"]
    words = ["--method", "prototype", "--shots", "1", "--cache-dir", str(tmp_path / "cache")]
    done = CliRunner().invoke(app, ["train", *words, "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert "left out: " in done.output and len(list((tmp_path / "runs").rglob("results.json"))) == 1
    with h5py.File(paths[0], "r+") as file:
        del file["train/labels"]
    done = CliRunner().invoke(app, ["train", *words, "--out", str(tmp_path / "more")])
    assert done.exit_code == 3 and "found none among 2" in done.output
