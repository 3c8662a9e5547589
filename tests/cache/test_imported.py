"""Features that other programs made: every layout ends as the same cache, what does not fit leaves nothing behind."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_files import CLASSES, DIM, LAYOUTS, Rows, clip_retrieval, lightly, make_rows, table
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from cptlite.backbones import load_backbone
from cptlite.cache import open_cache, verify_cache
from cptlite.cli import app
from cptlite.datasets.partition import partition
from cptlite.errors import DataError


@pytest.fixture
def rows() -> Rows:
    return make_rows()


def take_in(folder: Path, *words: str | Path, name: str = "trees") -> Result:
    given = [str(word) for word in words]
    return CliRunner().invoke(app, ["import-features", *given, "--name", name, "--cache-dir", str(folder / "cache")])


def cached(folder: Path, name: str = f"features-trees-{DIM}") -> dict[str, dict[str, tuple[str, bytes]]]:
    """By split and path, the class and the features of each row."""
    with open_cache(folder / "cache" / name / "trees.h5") as cache:
        names = cache.tasks[0].class_names
        found = {}
        for split in ("train", "val", "test"):
            features = cache.features(split)[:, 0].astype(np.float32)
            labels = cache.labels(split)
            found[split] = {
                path: (names[label], row.tobytes())
                for path, label, row in zip(cache.paths(split), labels, features, strict=True)
            }
    return found


def wanted(rows: Rows, dtype: type = np.float32) -> dict[str, dict[str, tuple[str, bytes]]]:
    stored = rows.features.astype(dtype).astype(np.float32)
    found: dict[str, dict[str, tuple[str, bytes]]] = {"train": {}, "val": {}, "test": {}}
    for split, path, name, row in zip(rows.splits, rows.paths, rows.names, stored, strict=True):
        found[split][path] = (name, row.tobytes())
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_ends_as_the_same_rows(tmp_path: Path, rows: Rows, layout: str) -> None:
    done = take_in(tmp_path, *LAYOUTS[layout](tmp_path, rows))
    assert done.exit_code == 0, done.output
    assert cached(tmp_path) == wanted(rows, np.float16 if layout == "clip-retrieval" else np.float32)
    path = tmp_path / "cache" / f"features-trees-{DIM}" / "trees.h5"
    assert verify_cache(path) > 0
    with open_cache(path) as cache:
        assert cache.tasks[0].class_names == CLASSES
        assert cache.fingerprint.layer == "imported" and cache.fingerprint.normalized
        origin = json.loads(cache.fingerprint.preprocess)
    assert (
        len(origin["sha256"]) == 64 and origin["imported"] and origin["layout"] in (layout.split("-by")[0], *layouts())
    )
    assert "30/15/15 train/val/test rows of 3 classes" in done.stdout


def layouts() -> tuple[str, ...]:
    return ("npz", "npy", "safetensors", "pt", "lightly", "clip-retrieval")


def test_parquet_metadata_are_read_where_pyarrow_is(tmp_path: Path, rows: Rows) -> None:
    pytest.importorskip("pyarrow")
    folder = clip_retrieval(tmp_path / "cr", rows, suffix=".parquet")
    assert take_in(tmp_path, folder, "--label-from-path").exit_code == 0
    assert cached(tmp_path) == wanted(rows, np.float16)
    short = table(folder / "metadata" / "metadata_1.parquet", {"image_path": ["a/b.png"] * 19, "caption": ["x"] * 19})
    done = take_in(tmp_path, folder, "--label-from-path", "--force")
    assert done.exit_code == 3 and f"{short}: wanted a row for each of 20" in done.stderr
    short.write_bytes(short.read_bytes()[:-9])
    assert "cannot read it" in take_in(tmp_path, folder, "--label-from-path", "--force").stderr


def test_parquet_without_pyarrow_says_so(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    folder = clip_retrieval(tmp_path / "cr", rows)
    for path in (folder / "metadata").iterdir():
        path.rename(path.with_suffix(".parquet"))
    done = take_in(tmp_path, folder, "--label-from-path")
    assert done.exit_code == 1 and "pip install pyarrow" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_without_splits_each_class_is_split_as_images_are(tmp_path: Path, rows: Rows) -> None:
    np.savez(tmp_path / "f.npz", features=rows.features, label=rows.names, path=rows.paths)
    done = take_in(tmp_path, tmp_path / "f.npz")
    assert done.exit_code == 0 and "50/20/30" in done.stderr
    by_class: dict[str, list[str]] = {}
    for name, path in zip(rows.names, rows.paths, strict=True):
        by_class.setdefault(name, []).append(path)
    parts = partition(by_class)
    found = cached(tmp_path)
    assert {split: set(paths) for split, paths in found.items()} == {
        split: {path for paths in of_class.values() for path in paths} for split, of_class in parts.items()
    }
    flat = {path: each for of_split in wanted(rows).values() for path, each in of_split.items()}
    assert all(each == flat[path] for of_split in found.values() for path, each in of_split.items())


def test_rows_without_paths_and_numbers_without_names_will_do(tmp_path: Path, rows: Rows) -> None:
    np.save(tmp_path / "f.npy", rows.features.astype(np.float64))
    np.save(tmp_path / "y.npy", np.array(rows.labels) * 5)
    assert take_in(tmp_path, tmp_path / "f.npy", "--metadata", tmp_path / "y.npy").exit_code == 0
    with open_cache(tmp_path / "cache" / f"features-trees-{DIM}" / "trees.h5") as cache:
        assert cache.tasks[0].class_names == ("0", "5", "10")
        for split in ("train", "val", "test"):
            places = [int(path.removeprefix("row-")) for path in cache.paths(split)]
            np.testing.assert_array_equal(cache.features(split)[:, 0], rows.features[places])
            assert cache.labels(split).tolist() == [rows.labels[place] for place in places]


def test_the_same_again_is_there_and_other_features_want_force(tmp_path: Path, rows: Rows) -> None:
    words = LAYOUTS["npz"](tmp_path, rows)
    assert take_in(tmp_path, *words).exit_code == 0
    path = tmp_path / "cache" / f"features-trees-{DIM}" / "trees.h5"
    before = path.read_bytes()
    again = take_in(tmp_path, *words)
    assert again.exit_code == 0 and "complete already" in again.stdout and path.read_bytes() == before
    rows.features[7] *= -1
    LAYOUTS["npz"](tmp_path, rows)
    other = take_in(tmp_path, *words)
    assert other.exit_code == 3 and "preprocess differ" in other.stderr and path.read_bytes() == before
    assert take_in(tmp_path, *words, "--force").exit_code == 0
    assert cached(tmp_path) == wanted(rows)


def test_a_backbone_whose_text_tower_fits_gives_its_name_and_weights(tmp_path: Path) -> None:
    backbone, rows = load_backbone("random:demo", device="cpu"), make_rows(128)
    words = LAYOUTS["npz"](tmp_path, rows)
    assert (
        take_in(tmp_path, *words, "--backbone", "random:demo", "--task", "tree", "--template", "a {} tree").exit_code
        == 0
    )
    with open_cache(tmp_path / "cache" / backbone.slug / "trees.h5") as cache:
        assert cache.fingerprint.weights_sha256 == backbone.weights_sha256
        assert (cache.tasks[0].name, cache.tasks[0].template) == ("tree", "a {} tree")
    wrong = take_in(tmp_path, *LAYOUTS["torch"](tmp_path, make_rows(64)), "--backbone", "random:demo", name="other")
    assert wrong.exit_code == 3 and "dimension 128" in wrong.stderr and "got 64" in wrong.stderr


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _npz(folder: Path, rows: Rows, **changed: Any) -> list[Path]:
    content = {"features": rows.features, "labels": rows.labels, "paths": rows.paths, "splits": rows.splits, **changed}
    np.savez(folder / "f.npz", **{name: value for name, value in content.items() if value is not None})
    return [folder / "f.npz"]


def _with_row(rows: Rows, value: float) -> np.ndarray:
    changed = rows.features.copy()
    changed[41] = value
    return changed


def _cut(folder: Path, name: str, rows: Rows) -> list[Path]:
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, rows.features)
    elif path.suffix == ".pt":
        torch.save({"features": torch.from_numpy(rows.features), "labels": torch.tensor(rows.labels)}, path)
    elif path.suffix == ".npz":
        _npz(folder, rows)
    else:
        save_file({"features": torch.from_numpy(rows.features)}, path)
    path.write_bytes(path.read_bytes()[:-700])
    return [path]


def _bomb(folder: Path, rows: Rows) -> list[Path]:
    with zipfile.ZipFile(folder / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2000000, 16), }"
        archive.writestr("features.npy", head.ljust(127) + b"\n" + bytes(128 * 10**6))
    return [folder / "f.npz"]


def _pickled(folder: Path, rows: Rows) -> list[Path]:
    torch.save({"features": torch.from_numpy(rows.features), "x": Trap(folder / "sprung")}, folder / "f.pt")
    return [folder / "f.pt"]


def _objects(folder: Path, rows: Rows) -> list[Path]:
    return _npz(folder, rows, labels=np.array([Trap(folder / "sprung")] * 60, dtype=object))


def _object_npy(folder: Path, rows: Rows) -> list[Path]:
    np.save(folder / "f.npy", np.array([Trap(folder / "sprung")] * 60, dtype=object), allow_pickle=True)
    return [folder / "f.npy"]


def _lost_shard(folder: Path, rows: Rows) -> list[Any]:
    (clip_retrieval(folder / "cr", rows) / "metadata" / "metadata_1.csv").unlink()
    return [folder / "cr", "--label-from-path"]


def _bad_number(folder: Path, rows: Rows) -> list[Path]:
    path = lightly(folder / "f.csv", rows)
    path.write_text(path.read_text().replace(",0.", ",zero point ", 1))
    return [path]


def _two_widths(folder: Path, rows: Rows) -> list[Path]:
    np.savez(folder / "g.npz", features=rows.features[:, :8], labels=rows.labels)
    return [*_npz(folder, rows, paths=None, splits=None), folder / "g.npz"]


def _short_names(folder: Path, rows: Rows) -> list[Any]:
    (folder / "names.txt").write_text("ash\nelm\n")
    return [*_npz(folder, rows), "--class-names", folder / "names.txt"]


def _two_kinds(folder: Path, rows: Rows) -> list[Path]:
    np.save(folder / "f.npy", rows.features)
    _npz(folder, rows)
    return [folder]


BAD: dict[str, tuple[Callable[[Path, Rows], list[Any]], str]] = {
    "nan": (lambda f, r: _npz(f, r, features=_with_row(r, float("nan"))), "not finite in float32 in row 41"),
    "too large": (
        lambda f, r: [*_npz(f, r, features=_with_row(r, 1e5)), "--dtype", "float16"],
        "not finite in float16 in row 41",
    ),
    "zeros": (lambda f, r: _npz(f, r, features=_with_row(r, 0.0)), "zeros alone in row 41"),
    "one axis": (lambda f, r: _npz(f, r, features=r.features[0]), "of shape (16,)"),
    "three axes": (lambda f, r: _npz(f, r, features=r.features[None]), "of shape (1, 60, 16)"),
    "whole numbers": (lambda f, r: _npz(f, r, features=r.features.astype(np.int8)), "int8 of shape"),
    "no rows": (lambda f, r: _npz(f, r, features=r.features[:0]), "of shape (0, 16)"),
    "label count": (lambda f, r: _npz(f, r, labels=r.labels[1:]), "label of each of 60 rows of features, got 59"),
    "one-hot labels": (lambda f, r: _npz(f, r, labels=np.eye(3)[r.labels]), "whole numbers or texts of shape (rows,)"),
    "no labels": (lambda f, r: _npz(f, r, labels=None), "wanted a label of each row"),
    "one class": (lambda f, r: _npz(f, r, labels=[0] * 60), "at least two classes"),
    "label above names": (_short_names, "wanted labels below 2"),
    "split word": (lambda f, r: _npz(f, r, splits=["dark"] * 60), "got 'dark'"),
    "path twice": (lambda f, r: _npz(f, r, paths=[r.paths[0], *r.paths[:-1]]), "twice"),
    "missing metadata": (
        lambda f, r: [*_npz(f, r), "--metadata", f / "none.csv"],
        "found no file",
    ),
    "missing shard": (_lost_shard, "metadata_1.parquet (or .csv), found none"),
    "missing source": (lambda f, r: [f / "none.npz"], "found nothing"),
    "no such column": (lambda f, r: [*_npz(f, r), "--label-column", "genus"], "'genus', found"),
    "two kinds": (_two_kinds, ".npy and .npz"),
    "two widths": (_two_widths, "[8, 16]"),
    "no embeddings": (lambda f, r: [table(f / "f.csv", {"path": r.paths, "label": r.names})], "embedding_0"),
    "bad number": (_bad_number, "f.csv, line 2: wanted a row of numbers"),
    "cut npy": (lambda f, r: _cut(f, "f.npy", r), "it is cut short"),
    "cut npz": (lambda f, r: _cut(f, "f.npz", r), "cannot read it as .npz"),
    "cut torch": (lambda f, r: _cut(f, "f.pt", r), "cannot read it as .pt"),
    "cut safetensors": (lambda f, r: _cut(f, "f.safetensors", r), "cannot read it as .safetensors"),
    "packed": (_bomb, "claims 128000128 bytes"),
    "objects in npz": (_objects, "are pickles and are not read"),
    "objects in npy": (_object_npy, "are pickles and are not read"),
    "pickle in torch": (_pickled, "only tensors are read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_in_one_message_and_leaves_nothing(tmp_path: Path, rows: Rows, kind: str) -> None:
    write, said = BAD[kind]
    words = write(tmp_path, rows)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = take_in(tmp_path, *words)
    assert done.exit_code == 3, done.output
    assert said in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "cache").exists() and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("word", ["a b", "a/b", "a:b", "é"])
def test_an_encoder_has_a_plain_name(tmp_path: Path, rows: Rows, word: str) -> None:
    done = take_in(tmp_path, *_npz(tmp_path, rows), "--encoder", word)
    assert done.exit_code == 2 and "as encoder" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_features_without_towers_are_a_backbone_that_encodes_nothing() -> None:
    space = load_backbone("features:dino:384", device="cpu")
    assert (space.slug, space.embed_dim, space.preprocess_spec) == ("features-dino-384", 384, {})
    assert space.weights_sha256 != load_backbone("features:dino:385", device="cpu").weights_sha256
    with pytest.raises(DataError, match="features alone are here"):
        space.encode_images(torch.zeros(1, 3, 8, 8))
