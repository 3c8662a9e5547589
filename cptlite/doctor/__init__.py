"""What of cptlite works on this machine, and what to mend: each check is done whatever others found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cptlite.doctor.contents import check_caches, check_datasets, check_weights
from cptlite.doctor.device import check_device, check_precision
from cptlite.doctor.findings import FAILED, OK, WARNING, Finding, examined
from cptlite.doctor.folders import check_folder, check_hdf5
from cptlite.doctor.packages import check_packages, check_python

__all__ = ["FAILED", "OK", "WARNING", "Finding", "examine"]

CLIP = ("numpy", "torch", "torchvision", "setuptools", "clip-anytorch", "Pillow")


def examine(root: Path, cache_dir: Path, out: Path) -> Iterator[Finding]:
    """Check everything, one finding after the other; no error ends it.

    Parameters
    ----------
    root, cache_dir, out : Path
        Of datasets, caches and runs; they may be missing. Nothing stays that is written there.

    Yields
    ------
    Finding
    """
    yield from examined("Python", check_python)
    broken = set()
    for finding in examined("packages", check_packages):
        yield finding
        if finding.state == FAILED:
            broken.add(finding.name)
    for name, needs, check in _checks(root, cache_dir, out):
        # A package that ended the process it was tried in would end this one.
        lacks = [package for package in needs if package in broken or "packages" in broken]
        if lacks:
            advice = "mend the packages above, then run `cptlite doctor` again"
            yield Finding(name=name, state=WARNING, found=f"not looked at: needs {', '.join(lacks)}", advice=advice)
        else:
            yield from examined(name, check)


Check = Callable[[], Iterable[Finding]]


def _checks(root: Path, cache_dir: Path, out: Path) -> Iterator[tuple[str, tuple[str, ...], Check]]:
    """Name, packages that it loads, and the check."""
    yield "device", ("numpy", "torch"), check_device
    yield "precision", CLIP, check_precision
    yield "--cache-dir", (), lambda: check_folder("--cache-dir", cache_dir)
    yield "--cache-dir HDF5", ("numpy", "h5py"), lambda: check_hdf5(cache_dir)
    yield "--out", (), lambda: check_folder("--out", out)
    yield "weights", CLIP, check_weights
    yield "datasets", ("numpy",), lambda: check_datasets(root)
    yield "caches", ("numpy", "h5py"), lambda: check_caches(cache_dir)
