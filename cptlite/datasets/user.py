"""Datasets that come from a path on the command line: a folder, a CSV or a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cptlite.datasets.specs import DatasetSpec, Layout
from cptlite.datasets.text_files import check_utf8
from cptlite.errors import UsageError

__all__ = ["is_manifest", "looks_like_path", "spec_from_path", "with_columns"]


def is_manifest(text: str) -> bool:
    """Whether a word on the command line names a manifest."""
    return text.lower().endswith(".toml")


def looks_like_path(text: str) -> bool:
    """Whether a word on the command line is a path rather than a name."""
    separators = {os.sep, os.altsep or os.sep}
    if not text.strip():
        return False
    named = any(mark in text for mark in separators) or text.startswith((".", "~"))
    return named or text.lower().endswith(".csv") or os.path.exists(text)


def spec_from_path(path: Path) -> DatasetSpec:
    """Describe a folder of class folders or a CSV of ``path,label[,split]``.

    Parameters
    ----------
    path : Path
        Where it lies; a CSV's paths are relative to its folder.

    Returns
    -------
    DatasetSpec
        Named after the folder or file; its words are the name's, its metric acc1.

    Raises
    ------
    UsageError
        When there is nothing at the path, or a file that is no CSV.
    """
    path = Path(os.path.expanduser(path))  # unlike the method, no error for an unknown user
    if not os.path.exists(path):
        raise UsageError(
            f"dataset {str(path)!r}: wanted a folder, a CSV or a manifest there, found nothing; check the path"
        )
    path = path.resolve()
    check_utf8(path.name, path.parent)
    if path.is_dir():
        layout = Layout(directory=str(path), reader="folders")
    elif path.suffix.lower() == ".csv":
        layout = Layout(directory=str(path.parent), reader="csv", split=path.name)
    else:
        raise UsageError(
            f"dataset {str(path)!r}: wanted a folder, a .csv or a .toml manifest, got another file; "
            'name a split file in a manifest: split = "FILE"'
        )
    stem = path.name if path.is_dir() else path.stem
    name = re.sub(r"[^\w.-]+", "_", stem).strip("._-") or "dataset"
    words = re.sub(r"[\s_\x00-\x1f\x7f-\x9f-]+", " ", stem).strip() or name
    return DatasetSpec(name=name, layout=layout, task_name=words)


def with_columns(specs: Sequence[DatasetSpec], path_column: str | None, label_column: str | None) -> list[DatasetSpec]:
    """Name the columns of CSVs otherwise than ``path`` and ``label``.

    Parameters
    ----------
    specs : sequence of DatasetSpec
        Those that are no CSVs come back as they are.
    path_column, label_column : str or None
        None keeps what the manifest says, or the usual name.

    Returns
    -------
    list of DatasetSpec

    Raises
    ------
    UsageError
        When a column is named and there is no CSV.
    """
    given = {"path_column": path_column, "label_column": label_column}
    columns = {name: column for name, column in given.items() if column is not None}
    if columns and all(spec.layout.reader != "csv" for spec in specs):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in columns)
        raise UsageError(f"{flags}: wanted a CSV among the datasets, got {', '.join(spec.name for spec in specs)}")
    return [
        replace(spec, layout=replace(spec.layout, options={**spec.layout.options, **columns}))
        if spec.layout.reader == "csv"
        else spec
        for spec in specs
    ]
