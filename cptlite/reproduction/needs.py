"""Whether data, weights and room for the paper's table are there: what `cptlite doctor` finds, of one suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cptlite.datasets import DatasetStatus
from cptlite.doctor import FAILED, OK, WARNING, Finding
from cptlite.doctor.findings import one_line
from cptlite.doctor.folders import check_folder, free_gib
from cptlite.errors import DataError
from cptlite.reproduction.target import Target

__all__ = ["check_needs", "refuse_failed", "weights_are_missing"]


def check_needs(target: Target, missing: Sequence[DatasetStatus], cache_bytes: int) -> Iterator[Finding]:
    """Check what the suite's table needs, one finding after the other.

    Parameters
    ----------
    target : Target
    missing : sequence of DatasetStatus
        What was found of the datasets that are not cached.
    cache_bytes : int
        That the caches to be made will take.
    """
    found, cache_dir = {status.spec.name: status for status in missing}, target.cache_dir
    yield _weights(target.backbone)
    for spec in target.specs:
        if spec.name in found:
            yield _dataset(found[spec.name], target.root)
        else:
            yield Finding(name=f"dataset {spec.name}", state=OK, found="cached")
    needed, free = cache_bytes / 2**30, free_gib(cache_dir)
    if needed > free:
        yield Finding(
            name="--cache-dir room",
            state=FAILED,
            found=f"wanted {needed:.1f} GiB for the caches in {cache_dir.absolute()}, got {free:.1f}",
            advice="free some, give a --cache-dir on another disk, or fewer --views",
        )
    yield from check_folder("--cache-dir", cache_dir)
    yield from check_folder("--out", target.out)


def refuse_failed(findings: Sequence[Finding]) -> None:
    """Refuse to begin where a check failed.

    Raises
    ------
    DataError
        The first that did.
    """
    failed = [each for each in findings if each.state == FAILED]
    if failed:
        first = f"{failed[0].name}: {failed[0].found}: {failed[0].advice}"
        more = f" (and {len(failed) - 1} more above)" if len(failed) > 1 else ""
        raise DataError(f"the table cannot be made yet: {first}{more}")


def _dataset(status: DatasetStatus, root: Path) -> Finding:
    name = f"dataset {status.spec.name}"
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
        return Finding(name=name, state=WARNING, found=one_line(found), advice=f"`cptlite datasets {status.spec.name}`")
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
