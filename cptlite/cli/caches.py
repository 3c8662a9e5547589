"""``cptlite caches`` and ``cptlite verify``: what is cached, and whether it is sound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import note, print_json, print_table
from cptlite.cli.options import CACHE_DIR, CacheDirOption, JsonOption
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError

if TYPE_CHECKING:
    from cptlite.cache import CacheSummary

__all__ = ["caches", "verify"]


def caches(cache_dir: CacheDirOption = CACHE_DIR, json: JsonOption = False) -> None:
    """List the caches: dataset, backbone, rows, views, patch features an image, MiB."""
    from cptlite.cache import list_caches
    from cptlite.reporting import Table

    listed = list_caches(cache_dir)
    if json:
        print_json([{**asdict(each), "path": str(each.path)} for each in listed])
        return
    if not listed:
        note(f"no caches in {shown(cache_dir)}; make one with: cptlite cache --dataset NAME")
        return
    print_table(
        Table(
            title=f"Caches in {cache_dir}: rows of train/val/test",
            columns=("dataset", "backbone", "rows", "views", "local", "stored", "MiB", "state"),
            rows=tuple(map(_row, listed)),
            words=(0, 1, 7),
        )
    )


def _row(each: CacheSummary) -> tuple[str, ...]:
    rows = "/".join(str(each.rows.get(split, 0)) for split in ("train", "val", "test"))
    name = each.dataset or str(each.path)
    local = str(each.local or "")
    return (name, each.backbone, rows, str(each.views), local, each.dtype, f"{each.mib:.1f}", _state(each))


def _state(each: CacheSummary) -> str:
    """Say whether a cache can be used, and what it lacks."""
    if each.problem:
        return each.problem
    if not each.complete:
        return "unfinished: the same `cptlite cache` goes on"
    return f"without {each.bad_images} unreadable images" if each.bad_images else "complete"


def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Cache files; by default all in --cache-dir.", show_default=False),
    ] = None,
    cache_dir: CacheDirOption = CACHE_DIR,
) -> None:
    """Read caches whole and compare every checksum."""
    from cptlite.cache import cache_files, verify_cache

    paths = paths or cache_files(cache_dir)
    if not paths:
        raise DataError(
            f"wanted caches to verify in {cache_dir}, found none. Make one with: cptlite cache --dataset NAME"
        )
    damaged = 0
    for path in paths:
        try:
            print(f"ok   {shown(path)}: {verify_cache(path)} chunks")
        except DataError as error:
            damaged += 1
            print(f"BAD  {shown(path)}: {shown(error)}")
    if damaged:
        raise DataError(f"{damaged} of {len(paths)} caches cannot be used; what to do stands beside each")
