"""``cptlite import-features``: features that other programs made, as a cache."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import note, print_results
from cptlite.cli.options import CACHE_DIR, HOW, WHAT, CacheDirOption, JsonOption, NoLockOption
from cptlite.datasets.text_files import shown
from cptlite.errors import UsageError
from cptlite.process import loading

if TYPE_CHECKING:
    from cptlite.datasets import DatasetSpec

__all__ = ["import_features"]

ROWS = "What the rows are"


def import_features(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Files or folders of features, PATH or train=PATH, val=PATH, test=PATH: npz, npy, safetensors, pt, "
            "Lightly's CSV, clip-retrieval's folder, a folder of such files.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Of the dataset to be.", rich_help_panel=WHAT)],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="The CLIP that made them, whose text tower fits; without, probes of features alone can be trained.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="A name for what made them, where it is no --backbone; by default the dataset's.",
            rich_help_panel=WHAT,
        ),
    ] = "",
    metadata: Annotated[
        Path | None,
        typer.Option(
            "--metadata",
            readable=False,
            help="Table of labels, paths and splits in the order of the rows: csv, parquet, or npy of labels.",
            rich_help_panel=ROWS,
            show_default=False,
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            "--class-names",
            readable=False,
            help="Class names in label order: a line each, or JSON.",
            rich_help_panel=ROWS,
            show_default=False,
        ),
    ] = None,
    label_from_path: Annotated[
        bool,
        typer.Option(
            "--label-from-path", help="An image's folder is its class, the one above its split.", rich_help_panel=ROWS
        ),
    ] = False,
    features_key: Annotated[
        str, typer.Option("--features-key", help="Name of the features in a file.", rich_help_panel=ROWS)
    ] = "",
    label_column: Annotated[
        str, typer.Option("--label-column", help="Name of the labels in a file or table.", rich_help_panel=ROWS)
    ] = "",
    path_column: Annotated[
        str, typer.Option("--path-column", help="Name of the images' paths there.", rich_help_panel=ROWS)
    ] = "",
    split_column: Annotated[
        str, typer.Option("--split-column", help="Name of the splits there.", rich_help_panel=ROWS)
    ] = "",
    task: Annotated[str, typer.Option("--task", help="Words of the task.", rich_help_panel=WHAT)] = "",
    template: Annotated[
        str, typer.Option("--template", help="Zero-shot prompt with one {}.", rich_help_panel=WHAT)
    ] = "",
    metric: Annotated[str, typer.Option("--metric", help="acc1 or mean_per_class_recall.", rich_help_panel=WHAT)] = "",
    cache_dir: CacheDirOption = CACHE_DIR,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="Stored numbers: float16 or float32; by default the source's.", rich_help_panel=HOW
        ),
    ] = "",
    seed: Annotated[
        int, typer.Option("--seed", help="Of a 50/20/30 split, where none is given.", rich_help_panel=HOW)
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=HOW)] = False,
    no_lock: NoLockOption = False,
    json: JsonOption = False,
) -> None:
    """Take in features that other programs made, with labels and splits.

    They become a cache whose fingerprint says where they came from.

    Nothing in a file is run: objects and pickles of anything but tensors are refused.
    """
    if backbone and encoder:
        raise UsageError("--backbone names what made the features, and so does --encoder: give one of them")
    spec = _spec(name, task, template, metric)
    with loading():
        from cptlite.backbones import load_backbone
        from cptlite.cache.columns import ColumnNames
        from cptlite.cache.imported import import_features as take_in
        from cptlite.cache.labelled import ImportRequest

    columns = ColumnNames(features=features_key, label=label_column, path=path_column, split=split_column)
    request = ImportRequest(
        sources=tuple(map(_source, source)),
        spec=spec,
        metadata=metadata,
        class_names=class_names,
        columns=columns,
        label_from_path=label_from_path,
        dtype=dtype,
        seed=seed,
    )
    loaded = load_backbone(backbone, device="cpu") if backbone else None
    report = take_in(request, cache_dir, backbone=loaded, encoder=encoder, force=force, lock=not no_lock)
    for kind, lines in (("note", report.notes), ("warning", report.warnings)):
        for line in lines:
            note(f"{kind}: {shown(name)}: {shown(line)}")
    if json:
        print_results([{**asdict(report), "path": str(report.path)}])
        return
    rows = "/".join(map(str, report.rows.values()))
    done = "complete already" if report.complete_already else f"{rows} train/val/test rows of {report.classes} classes"
    length = "unit length" if report.normalized else "any length"
    print(f"{shown(name)}: {done}, dimension {report.dimension}, {length}, {report.layout}: {shown(report.path)}")
    if not backbone:
        note(f"backbone {report.backbone}: without a text tower, for linear-probe and prototype")


def _source(text: str) -> tuple[str, Path]:
    """Take ``SPLIT=PATH`` apart."""
    from cptlite.datasets.class_folders import SPLIT_WORDS

    word, equals, path = text.partition("=")
    return (SPLIT_WORDS[word], Path(path)) if equals and word in SPLIT_WORDS else ("", Path(text))


def _spec(name: str, task: str, template: str, metric: str) -> DatasetSpec:
    """Words of the dataset: those given, or those of the catalogue for a dataset of that name, or made of the name."""
    from cptlite.datasets import load_catalog
    from cptlite.datasets.tables import DATASET_KEYS, check_table, parse_dataset

    given = {"task": task, "template": template, "metric": metric}
    table = {key: value for key, value in given.items() if value}
    check_table(table, DATASET_KEYS, "import-features")
    known = load_catalog().datasets.get(name)
    if known is not None:
        words = {"task": known.task_name, "template": known.template, "metric": known.metric}
        table = {**words, **table}
    return parse_dataset(name, {**table, "reader": "folders"}, "--name", None, {"folders": ()})
