"""Measure what commands take on a cache of many rows, each in a process of its own.

    python scripts/measure_scale.py FOLDER --rows 1300000 [--backbone demo]

Random features under FOLDER stand for a dataset of ImageNet's proportions: 1,000 classes, 96 % of the rows to train on.
Prints a line a command: peak resident memory in MiB and seconds.

Axes: N rows, D joint dimension.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import Fingerprint, cache_path
from cptlite.cache.format import preprocess_json
from cptlite.cache.write import SplitContent, write_cache
from cptlite.datasets.types import SPLITS, Task

__all__ = ["write_rows"]

NAME = "scale"
BLOCK = 4096
# From a small process: what starts another counts among its peak.
LAUNCH = """
import os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(status, usage.ru_maxrss, time.monotonic() - started)
"""
TRAINED, CHOSEN = 0.96, 0.004  # shares of training and validation rows


def write_rows(folder: Path, backbone: Backbone, sizes: Sequence[int], num_classes: int) -> Path:
    """Write a cache of random features of one view; its path.

    Parameters
    ----------
    folder : Path
        The cache folder.
    backbone : Backbone
        Whose features they pretend to be.
    sizes : sequence of int
        Rows by split.
    num_classes : int
        Rows lie by class, as in folders.
    """
    draw = np.random.default_rng(0)
    splits = {}
    for split, rows in zip(SPLITS, sizes, strict=True):
        labels = np.sort(np.arange(rows, dtype=np.int32) % num_classes)
        splits[split] = SplitContent(
            labels=labels,
            tasks=np.zeros(rows, np.int32),
            paths=[f"{split}/n{label:08d}/n{label:08d}_{row}.JPEG" for row, label in enumerate(labels)],
            shape=(rows, 1, backbone.embed_dim),
            blocks=_blocks(rows, backbone.embed_dim, draw),
        )
    names = tuple(f"class {number}" for number in range(num_classes))
    path = cache_path(folder, backbone.slug, NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_cache(
        path,
        fingerprint=Fingerprint(
            dataset=NAME,
            split_sha256="0" * 64,
            backbone=backbone.name,
            weights_sha256=backbone.weights_sha256,
            preprocess=preprocess_json(backbone.preprocess_spec),
            views=1,
            view_seed=0,
            min_scale=0.08,
            flip=True,
        ),
        tasks=[Task(id=NAME, name="object", class_names=names, template="a photo of a {}.", metric="acc1")],
        splits=splits,
        facts={},
    )
    return path


def _blocks(rows: int, dim: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Random features, (n, 1, D) each."""
    for start in range(0, rows, BLOCK):
        yield draw.standard_normal((min(BLOCK, rows - start), 1, dim), dtype=np.float32).astype(np.float16)


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Run Python with some arguments; peak memory in MiB, and seconds."""
    launched = subprocess.run([sys.executable, "-c", LAUNCH, *arguments], capture_output=True, text=True, check=True)
    status, peak, seconds = map(float, launched.stdout.split())
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return peak / (2**20 if sys.platform == "darwin" else 2**10), seconds


def main() -> None:
    """Write the cache unless it is there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_300_000)
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--only", nargs="*", default=[], help="words: commands with one of them")
    given = parser.parse_args()
    backbone, folder = load_backbone(given.backbone, device="cpu"), given.folder / str(given.rows)
    path = cache_path(folder / "cache", backbone.slug, NAME)
    if not path.exists():
        trained, chosen = int(given.rows * TRAINED), int(given.rows * CHOSEN)
        write_rows(folder / "cache", backbone, (trained, chosen, given.rows - trained - chosen), 1000)
    load = f"cptlite.load_backbone({given.backbone!r}, device='cpu')"
    cached, out = ["--cache-dir", str(folder / "cache")], ["--out", str(folder / "runs")]
    train = ["-m", "cptlite", "train", *cached, *out, "--force", "--backbone", given.backbone]
    commands = {
        "open in Python": ["-c", f"from cptlite.cache import open_cache; open_cache({str(path)!r})"],
        "caches": ["-m", "cptlite", "caches", *cached],
        "verify": ["-m", "cptlite", "verify", *cached],
        "imports and backbone alone": ["-c", f"import cptlite.runs.execute as _, cptlite; {load}"],
        "train zeroshot": [*train, "--method", "zeroshot"],
        "train linear-probe, 2 shots": [*train, "--method", "linear-probe", "--shots", "2"],
        "train softcpt, 16 shots, 1 epoch": [*train, "--epochs", "1"],
        "report": ["-m", "cptlite", "report", str(folder / "runs")],
    }
    print(f"{given.rows:,} rows of {given.backbone}: {path.stat().st_size / 2**20:.0f} MiB")
    for name, arguments in commands.items():
        if not given.only or any(word in name for word in given.only):
            peak, seconds = measure(arguments)
            print(f"| {name} | {peak:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
