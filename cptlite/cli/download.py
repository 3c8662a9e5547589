"""``cptlite download``: datasets from where they are published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from cptlite.cli.console import note, print_results, print_table, progress
from cptlite.cli.options import HOW, ROOT, JsonOption, NoLockOption, RootOption
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, UsageError

if TYPE_CHECKING:
    from cptlite.datasets import DatasetSpec

__all__ = ["download"]

MB = 1e6


def download(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets or suites.", show_default=False)] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show what can be fetched, and how.")] = False,
    root: RootOption = ROOT,
    split: Annotated[
        bool, typer.Option("--split/--no-split", help="Fetch the published split file too.", rich_help_panel=HOW)
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep archives that are unpacked.", rich_help_panel=HOW)] = False,
    no_lock: NoLockOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch datasets, or say where they are fetched by hand.

    A transfer that was stopped goes on with the same command.
    """
    from cptlite.datasets import load_catalog

    catalog = load_catalog()
    specs = catalog.resolve(names) if names else []
    if listed:
        _list(specs or [spec for spec in catalog.datasets.values() if spec.download or spec.page], root, json=json)
        return
    if not specs:
        raise UsageError("wanted a dataset to fetch: give its name; `cptlite download --list` shows them")
    folders: dict[str, Path] = {}
    errors: list[CptliteError] = []
    for spec in specs:
        try:
            folders[spec.name] = _fetch(spec, root, split=split, keep=keep, lock=not no_lock)
            if not json:
                print(f"{shown(spec.name)}: {shown(folders[spec.name])}")
        except CptliteError as error:  # the others are fetched all the same
            errors.append(error)
    if json:
        print_results([{"name": name, "folder": str(folder)} for name, folder in folders.items()])
    if errors:
        raise type(errors[0])("\n\n".join(map(str, errors)))


def _fetch(spec: DatasetSpec, root: Path, *, split: bool, keep: bool, lock: bool) -> Path:
    """Fetch one dataset; say what stays where that is interrupted."""
    from cptlite.download.dataset import Download, parts_of

    with progress(spec.name, "MB") as tick:

        def show(done: int, total: int | None, stage: str) -> None:
            if stage == "fetching":
                tick(round(done / MB), None if total is None else round(total / MB), f"{stage} {spec.name}", "MB")
            else:
                tick(done, total, f"{stage} {spec.name}", "files")

        try:
            return Download(
                spec=spec, root=root, split=split, keep=keep, lock=lock, on_progress=show, on_note=note
            ).run()
        except KeyboardInterrupt:
            for part in parts_of(spec, root):
                note(f"kept: {shown(part)}, {part.stat().st_size / MB:.1f} MB")
            raise


def _list(specs: list[DatasetSpec], root: Path, *, json: bool) -> None:
    from cptlite.datasets import find_dataset

    if json:
        print_results([_facts(spec) | {"found": find_dataset(spec, root)} for spec in specs])
        return
    from cptlite.reporting import Table

    rows = tuple(
        (
            spec.name,
            "yes" if find_dataset(spec, root) else "-",
            "fetched" if spec.download else "by hand",
            "yes" if spec.split_url and spec.download else "-",
            urlsplit(spec.page).netloc.removeprefix("www."),
        )
        for spec in specs
    )
    print_table(
        Table(
            title="Where datasets come from",
            columns=("name", "here", "images", "split file", "page"),
            rows=rows,
            best=frozenset((row, 1) for row, cells in enumerate(rows) if cells[1] == "yes"),
            caption="cptlite download NAME fetches one, or says where to get it and where it belongs",
            words=(0, 1, 2, 3, 4),
        )
    )


def _facts(spec: DatasetSpec) -> dict[str, Any]:
    """Gather all addresses of a dataset."""
    from cptlite.download.sources import remote_files

    files = remote_files(spec.download) if spec.download else []
    return {
        "name": spec.name,
        "fetched": bool(spec.download),
        "files": [{"url": file.url, "md5": file.md5} for file in files],
        "split_url": spec.split_url if spec.download else None,
        "page": spec.page,
    }
