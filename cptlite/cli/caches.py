"""``cptlite caches`` and ``cptlite verify``: what is cached, and whether it is sound."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import note, print_results, print_table
from cptlite.cli.options import CACHE_DIR, CacheDirOption, JsonOption
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, DataError, UsageError

if TYPE_CHECKING:
    from cptlite.cache import CacheSummary

__all__ = ["caches", "verify"]


def caches(
    cache_dir: CacheDirOption = CACHE_DIR,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="List what stopped passes left (parts, locks, temporary files), and remove it once you agree.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree to what --prune lists.")] = False,
    json: JsonOption = False,
) -> None:
    """List the caches: dataset, backbone, rows, views, patch features an image, MiB.

    With --prune, what passes that were stopped left behind is listed and, once you agree, removed: the same `cptlite
    cache` would have gone on from its parts. Cache files stay, and so does what a pass at work holds a lock on.
    """
    if yes and not prune:
        raise UsageError("--yes agrees to --prune, which was not given: give both or neither")
    if prune:
        _prune(cache_dir, agreed=yes, json=json)
        return
    from cptlite.cache import list_caches
    from cptlite.reporting import Table

    listed = list_caches(cache_dir)
    if json:
        print_results([{**asdict(each), "path": str(each.path)} for each in listed])
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


def _prune(cache_dir: Path, *, agreed: bool, json: bool) -> None:
    """List what was left behind, ask, and remove it."""
    from cptlite.cache.prune import find_leftovers, remove_leftovers

    found = find_leftovers(cache_dir)
    for each in () if json else found:
        print(f"{each.kind:<10} {each.mib:8.1f} MiB  {shown(each.path)}")
    agreed = agreed or bool(found and not json and sys.stdin.isatty() and typer.confirm("Remove these?", err=True))
    removed, kept = [], []
    for target in dict.fromkeys(each.target for each in found) if agreed else ():
        try:
            remove_leftovers(target, found)
            removed += [each for each in found if each.target == target]
        except CptliteError as error:
            kept.append(f"left: {shown(error)}")
    if json:
        listed = [{**asdict(each), "path": str(each.path), "target": str(each.target)} for each in found]
        print_results([{**of_one, "removed": each in removed} for of_one, each in zip(listed, found, strict=True)])
    for line in kept:
        note(line)
    if not found:
        note(f"nothing to remove in {shown(cache_dir)}")
    elif removed:
        note(f"removed {len(removed)} of {len(found)}, {sum(each.mib for each in removed):.1f} MiB")
    elif not agreed:
        note("nothing removed: --yes removes what is listed")
    if kept:
        raise CptliteError(f"{len(kept)} of the caches are being written: run it again when their passes have ended")


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
