"""What there is to work with: weights, datasets, caches."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from cptlite.doctor.findings import FAILED, OK, WARNING, Finding, one_line

__all__ = ["check_caches", "check_datasets", "check_weights"]


def check_weights() -> Iterator[Finding]:
    """Look for the weights of the backbones that are known by name; none is downloaded or read."""
    from cptlite.backbones.architectures import ARCHITECTURES
    from cptlite.backbones.checkpoints import DEMO_CHECKPOINT, openai_target

    if not DEMO_CHECKPOINT.is_file():
        yield Finding(
            name="weights of demo",
            state=FAILED,
            found=f"wanted a file of the package at {DEMO_CHECKPOINT}, found none",
            advice="pip install --force-reinstall --no-deps cptlite",
        )
    targets = {name: openai_target(name) for name in ARCHITECTURES if name != "demo"}
    found = [name for name, path in targets.items() if path.is_file()]
    folder = next(iter(targets.values())).parent
    yield Finding(
        name="weights",
        state=OK,
        found=f"{', '.join(found) or 'none of OpenAI yet'} in {folder}",
        advice="" if found else "they are downloaded when --backbone names them; without a network, put them there",
    )
    for name in found:
        if not zipfile.is_zipfile(targets[name]):  # its directory stands at the end, which half a file lacks
            yield Finding(
                name=f"weights of {name}",
                state=WARNING,
                found=f"damaged, or downloaded by half: {targets[name]}",
                advice="delete it: it is downloaded anew when --backbone names it",
            )


def check_datasets(root: Path) -> Iterator[Finding]:
    """Look for the catalogue's datasets under the data root, and read the lists of those found; no image is opened."""
    from cptlite.datasets.catalog import load_catalog
    from cptlite.datasets.locate import find_dataset
    from cptlite.datasets.status import dataset_status

    catalog = load_catalog()
    found = [spec for spec in catalog.datasets.values() if find_dataset(spec, root)]
    names = f": {', '.join(spec.name for spec in found)}" if found else ""
    missing = "" if root.is_dir() else ", which is not there"
    yield Finding(
        name="datasets",
        state=OK,
        found=f"{len(found)} of {len(catalog.datasets)} known under {root.absolute()}{missing}{names}",
        advice="" if found else "`cptlite datasets NAME` says which files one needs; or give --root",
    )
    for spec in found:
        status = dataset_status(spec, root)
        name, page = f"dataset {spec.name}", f"`cptlite datasets {spec.name}` says more"
        if status.problem:
            yield Finding(name=name, state=FAILED, found="cannot be read", advice=one_line(status.problem))
            continue
        remarks = [status.difference] if status.difference else []
        remarks += [f"{len(status.warnings)} warnings"] if status.warnings else []
        if remarks:
            yield Finding(name=name, state=WARNING, found="; ".join(remarks), advice=page)


def check_caches(cache_dir: Path) -> Iterator[Finding]:
    """Open every cache; its features are not read."""
    from cptlite.cache.folder import list_caches

    caches = list_caches(cache_dir)
    names = ", ".join(f"{each.path.parent.name}/{each.dataset}" for each in caches if each.complete)
    mib = sum(each.mib for each in caches)
    yield Finding(
        name="caches",
        state=OK,
        found=f"{names}: {mib:.1f} MiB" if names else f"none to be used in {cache_dir.absolute()}",
        advice="" if names else "make one with `cptlite cache --dataset NAME`, or give --cache-dir",
    )
    for each in caches:
        name = f"cache {each.path.parent.name}/{each.dataset or each.path.stem}"
        if each.problem:
            yield Finding(name=name, state=FAILED, found=f"cannot be used: {each.path}", advice=one_line(each.problem))
        elif not each.complete:
            rows = sum(each.rows.values())
            yield Finding(
                name=name,
                state=WARNING,
                found=f"not finished: {rows} rows so far",
                advice="the same `cptlite cache` goes on where it stopped",
            )
