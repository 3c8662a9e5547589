"""Whether a folder will take what a command writes: room, permission, locks, HDF5."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cptlite.doctor.findings import FAILED, OK, WARNING, Finding, one_line
from cptlite.errors import CptliteError
from cptlite.files import locked, write_whole

__all__ = ["ENOUGH_GIB", "LEAST_GIB", "check_folder", "check_hdf5", "free_gib", "nearest_folder"]

ENOUGH_GIB = {"--cache-dir": 5.0, "--out": 1.0}  # ImageNet from RN50 takes 2.6 GiB a view; a run, a few MiB
LEAST_GIB = 0.1
CONTENT = bytes(range(256)) * 4096  # 1 MiB
PROBE = ".cptlite-doctor-"


def check_folder(flag: str, folder: Path) -> Iterator[Finding]:
    """Look at the disk under a folder, write there, and lock.

    What is made is removed. A folder that is not there yet is left so: the nearest one above it is looked at.
    """
    place = nearest_folder(folder)
    if not place.is_dir():
        yield Finding(
            name=f"{flag} folder",
            state=FAILED,
            found=f"wanted a folder at {folder}, got something else at {place}",
            advice=f"move that away, or give another {flag}",
        )
        return
    yield _disk(flag, folder, place)
    try:
        with tempfile.TemporaryDirectory(prefix=PROBE, dir=place) as probe:
            path = Path(probe) / "written"
            write_whole(path, CONTENT)
            if path.read_bytes() != CONTENT:
                raise CptliteError("what is read is not what was written")
            yield Finding(name=f"{flag} writing", state=OK, found=f"files are written and renamed in {place}")
            yield _locks(flag, Path(probe))
    except (OSError, CptliteError) as error:
        yield Finding(
            name=f"{flag} writing",
            state=FAILED,
            found=f"cannot write in {place}: {one_line(error)}",
            advice=f"give a {flag} that you may write to, or free space there",
        )


def _disk(flag: str, folder: Path, place: Path) -> Finding:
    free = free_gib(place)
    state = FAILED if free < LEAST_GIB else WARNING if free < ENOUGH_GIB[flag] else OK
    new = "" if place == folder.absolute() else " (to be made)"
    limits = f"; a warning below {ENOUGH_GIB[flag]:g}, too little below {LEAST_GIB:g}" if state != OK else ""
    return Finding(
        name=f"{flag} disk",
        state=state,
        found=f"{free:.2f} GiB free for {folder.absolute()}{new}{limits}",
        advice="" if state == OK else f"free some, or give a {flag} on another disk",
    )


def free_gib(folder: Path) -> float:
    """GiB that are free under a folder, which need not be there yet."""
    return shutil.disk_usage(nearest_folder(folder)).free / 2**30


def _locks(flag: str, probe: Path) -> Finding:
    """Lock twice: the second must fail, or two processes would write the same file."""
    path, name, without = probe / "lock", f"{flag} locks", "with --no-lock, see to it that one process alone writes"
    try:
        with locked(path, probe):
            with suppress(CptliteError), locked(path, probe):
                return Finding(
                    name=name,
                    state=FAILED,
                    found="a lock is given to two at a time",
                    advice=f"{_elsewhere(flag)}, or {without}",
                )
    except CptliteError as error:
        return Finding(name=name, state=FAILED, found=one_line(error), advice=f"{_elsewhere(flag)}, or {without}")
    return Finding(name=name, state=OK, found="a locked file is locked for others")


def _elsewhere(flag: str) -> str:
    return f"give a {flag} on another file system"


def check_hdf5(folder: Path) -> Iterator[Finding]:
    """Write a small cache under the nearest folder there is, and read it with its checksums."""
    import numpy as np

    from cptlite.cache.format import Fingerprint
    from cptlite.cache.verify import verify_cache
    from cptlite.cache.write import SplitContent, write_cache
    from cptlite.datasets.types import SPLITS, Task

    task = Task(id="probe", name="probe", class_names=("one",), template="{}", metric="acc1")
    zeros, features = np.zeros(1, np.int32), np.ones((1, 1, 4), np.float16)  # (N,), (N, V, D)
    row = SplitContent(labels=zeros, tasks=zeros, paths=("one.png",), shape=(1, 1, 4), blocks=[features])
    fingerprint = Fingerprint(
        dataset="probe",
        split_sha256="",
        backbone="probe",
        weights_sha256="",
        preprocess="{}",
        views=1,
        view_seed=0,
        min_scale=1.0,
        flip=False,
    )
    try:
        with tempfile.TemporaryDirectory(prefix=PROBE, dir=nearest_folder(folder)) as probe:
            path = Path(probe) / "probe.hdf5"  # not .h5: it is nobody's cache
            write_cache(path, fingerprint=fingerprint, tasks=(task,), splits=dict.fromkeys(SPLITS, row), facts={})
            chunks = verify_cache(path)
    except (OSError, CptliteError) as error:
        yield Finding(
            name="--cache-dir HDF5",
            state=FAILED,
            found=f"a cache cannot be written and read: {one_line(error)}",
            advice=_elsewhere("--cache-dir"),
        )
    else:
        yield Finding(name="--cache-dir HDF5", state=OK, found=f"a cache of {chunks} chunks is written and read")


def nearest_folder(path: Path) -> Path:
    """Find what is there of a path: itself, or the nearest above it."""
    place = path.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place
