"""Whether data, weights and room for the paper's table are there: what `cptlite doctor` finds, of one suite."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cptlite.datasets import DatasetSpec
from cptlite.datasets.status import dataset_status
from cptlite.doctor import FAILED, OK, WARNING, Finding
from cptlite.doctor.findings import one_line
from cptlite.doctor.folders import check_folder, free_gib

__all__ = ["check_needs", "weights_are_missing"]


def check_needs(
    specs: Sequence[DatasetSpec],
    *,
    root: Path,
    cache_dir: Path,
    out: Path,
    cached: Collection[str],
    backbone: str,
    cache_bytes: int,
) -> Iterator[Finding]:
    """Check what the suite's table needs, one finding after the other.

    Parameters
    ----------
    specs : sequence of DatasetSpec
    root, cache_dir, out : Path
        Of datasets, caches and runs.
    cached : collection of str
        Datasets that need no files, being cached.
    backbone : str
    cache_bytes : int
        That the caches to be made will take.
    """
    yield _weights(backbone)
    for spec in specs:
        if spec.name in cached:
            yield Finding(name=f"dataset {spec.name}", state=OK, found="cached")
        else:
            yield _dataset(spec, root)
    needed, free = cache_bytes / 2**30, free_gib(cache_dir)
    if needed > free:
        yield Finding(
            name="--cache-dir room",
            state=FAILED,
            found=f"wanted {needed:.1f} GiB for the caches in {cache_dir.absolute()}, got {free:.1f}",
            advice="free some, give a --cache-dir on another disk, or fewer --views",
        )
    yield from check_folder("--cache-dir", cache_dir)
    yield from check_folder("--out", out)


def _dataset(spec: DatasetSpec, root: Path) -> Finding:
    status, name = dataset_status(spec, root), f"dataset {spec.name}"
    if not status.found:
        return Finding(
            name=name,
            state=FAILED,
            found=f"wanted its files under {root.absolute()}, found none",
            advice="`cptlite datasets NAME` says which files go where; `cptlite download NAME` fetches what it can",
        )
    if status.problem:
        return Finding(name=name, state=FAILED, found="cannot be read", advice=one_line(status.problem))
    if status.difference or status.warnings:
        found = "; ".join(filter(None, (status.difference, *status.warnings)))
        return Finding(name=name, state=WARNING, found=one_line(found), advice=f"`cptlite datasets {spec.name}`")
    return Finding(name=name, state=OK, found=f"in {status.folder}")


def weights_are_missing(backbone: str) -> bool:
    """Whether a backbone is OpenAI's by name, and its weights have to be downloaded."""
    from cptlite.backbones.architectures import ARCHITECTURES
    from cptlite.backbones.checkpoints import openai_target

    return backbone in ARCHITECTURES and backbone != "demo" and not openai_target(backbone).is_file()


def _weights(backbone: str) -> Finding:
    """Look for the weights; of others than OpenAI's names it is said when they are loaded."""
    name = f"weights of {backbone}"
    if not weights_are_missing(backbone):
        return Finding(name=name, state=OK, found="here")
    return Finding(
        name=name,
        state=WARNING,
        found="not here yet; times are those of random weights",
        advice="they are downloaded when the pass begins; without a network, it says where they go",
    )
