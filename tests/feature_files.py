"""One set of features and labels, written as other programs lay them out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

__all__ = ["CLASSES", "DIM", "LAYOUTS", "Rows", "clip_retrieval", "lightly", "make_rows", "table"]

CLASSES = ("ash", "elm", "oak")
DIM = 16


class Rows:
    """Features (N, D), float32, of unit length; class number, path and split of each."""

    def __init__(self, features: np.ndarray, labels: list[int], paths: list[str], splits: list[str]) -> None:
        self.features, self.labels, self.paths, self.splits = features, labels, paths, splits

    @property
    def names(self) -> list[str]:
        return [CLASSES[label] for label in self.labels]

    def part(self, places: Sequence[int]) -> Rows:
        kept = list(places)
        columns = ([column[place] for place in kept] for column in (self.labels, self.paths, self.splits))
        return Rows(self.features[kept], *columns)  # type: ignore[arg-type]


def make_rows(dim: int = DIM) -> Rows:
    """Draw 60 rows around a centre a class, in no order, under ``SPLIT/CLASS/NUMBER.png``."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(60) % len(CLASSES)).tolist()
    centres = draw.standard_normal((len(CLASSES), dim))
    raw = centres[labels] + 0.3 * draw.standard_normal((60, dim))
    splits = [("train", "test", "train", "val")[row % 4] for row in range(60)]
    paths = [
        f"{split}/{CLASSES[label]}/{row:03}.png" for row, (split, label) in enumerate(zip(splits, labels, strict=True))
    ]
    return Rows((raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32), labels, paths, splits)


def table(path: Path, columns: dict[str, Sequence[Any]]) -> Path:
    """Write a table, CSV or Parquet by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def clip_retrieval(folder: Path, rows: Rows, *, parts: int = 3, suffix: str = ".csv") -> Path:
    """clip-retrieval's output: ``img_emb/img_emb_N.npy`` in half precision, ``metadata/metadata_N.parquet``."""
    (folder / "img_emb").mkdir(parents=True)
    for number, places in enumerate(np.array_split(np.arange(len(rows.paths)), parts)):
        part = rows.part(places.tolist())
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", part.features.astype(np.float16))
        columns = {
            "image_path": [f"/data/trees/{path}" for path in part.paths],
            "caption": ["a tree"] * len(part.paths),
        }
        table(folder / "metadata" / f"metadata_{number}{suffix}", columns)
    return folder


def lightly(path: Path, rows: Rows) -> Path:
    """Lightly's CSV of embeddings."""
    numbers = {f"embedding_{place}": rows.features[:, place].tolist() for place in range(rows.features.shape[1])}
    return table(path, {"filenames": rows.paths, **numbers, "labels": rows.labels})


def _names(folder: Path) -> list[str]:
    (folder / "names.txt").write_text("\n".join(CLASSES))
    return ["--class-names", str(folder / "names.txt")]


def _npz(folder: Path, rows: Rows) -> list[str]:
    np.savez_compressed(
        folder / "f.npz", features=rows.features, labels=rows.labels, paths=rows.paths, splits=rows.splits,
        class_names=CLASSES,
    )  # fmt: skip
    return [str(folder / "f.npz")]


def _npz_by_split(folder: Path, rows: Rows) -> list[str]:
    words = []
    for split in ("train", "val", "test"):
        part = rows.part([row for row, each in enumerate(rows.splits) if each == split])
        np.savez(folder / f"{split}.npz", X=part.features, y=np.array(part.names), image=np.array(part.paths))
        words.append(f"{split}={folder / split}.npz")
    return [*words, "--features-key", "x"]


def _npy_and_csv(folder: Path, rows: Rows) -> list[str]:
    np.save(folder / "f.npy", rows.features)
    columns = {"file": rows.paths, "species": rows.names, "split": rows.splits}
    named = ["--path-column", "file", "--label-column", "species"]
    return [str(folder / "f.npy"), "--metadata", str(table(folder / "m.csv", columns)), *named]


def _safetensors(folder: Path, rows: Rows) -> list[str]:
    tensors = {"embeddings": torch.from_numpy(rows.features), "labels": torch.tensor(rows.labels)}
    texts = {"class_names": CLASSES, "paths": rows.paths, "splits": rows.splits}
    save_file(tensors, folder / "f.safetensors", metadata={name: json.dumps(value) for name, value in texts.items()})
    return [str(folder / "f.safetensors")]


def _torch(folder: Path, rows: Rows) -> list[str]:
    content = {"features": torch.from_numpy(rows.features), "labels": torch.tensor(rows.labels), "paths": rows.paths}
    torch.save({**content, "split": rows.splits, "classnames": list(CLASSES)}, folder / "f.pt")
    return [str(folder / "f.pt")]


def _shards(folder: Path, rows: Rows) -> list[str]:
    """A folder of eleven files, whose order is that of their numbers, not of their names."""
    (folder / "shards").mkdir()
    for number, places in enumerate(np.array_split(np.arange(60), 11)):
        np.save(folder / "shards" / f"part-{number}.npy", rows.features[places])
    columns = {"path": rows.paths, "label": rows.names, "split": rows.splits}
    return [str(folder / "shards"), "--metadata", str(table(folder / "m.csv", columns))]


LAYOUTS: dict[str, Callable[[Path, Rows], list[str]]] = {
    "npz": _npz,
    "npz-by-split": _npz_by_split,
    "npy-and-csv": _npy_and_csv,
    "safetensors": _safetensors,
    "torch": _torch,
    "shards": _shards,
    "lightly": lambda folder, rows: [str(lightly(folder / "f.csv", rows)), *_names(folder), "--label-from-path"],
    "clip-retrieval": lambda folder, rows: [str(clip_retrieval(folder / "cr", rows)), "--label-from-path"],
}
