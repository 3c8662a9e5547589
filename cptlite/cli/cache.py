"""``cptlite cache``: the one pass over the images of datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.console import note, print_results, progress, show_configuration, some
from cptlite.cli.options import (
    CACHE_DIR,
    HOW,
    ROOT,
    WHAT,
    BackboneOption,
    CacheDirOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    LinearBackendOption,
    NoLockOption,
    PrecisionOption,
    RootOption,
    VerboseOption,
    WorkersOption,
    split_at_commas,
)
from cptlite.datasets.text_files import shown
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError, UsageError
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.backbones import Backbone
    from cptlite.cache.encode import EncodeReport
    from cptlite.datasets import Dataset

__all__ = ["cache"]

VIEWS = "Views of the training images"
SHARDS = "Several processes or machines"
SHOWN_BAD = 20


def cache(
    *,
    dataset: DatasetOption = None,
    backbone: BackboneOption = "RN50",
    root: RootOption = ROOT,
    cache_dir: CacheDirOption = CACHE_DIR,
    views: Annotated[
        int, typer.Option("--views", help="Views of an image: the plain one, then random ones.", rich_help_panel=VIEWS)
    ] = ViewConfig.views,
    view_seed: Annotated[
        int, typer.Option("--view-seed", help="Seed of the random views.", rich_help_panel=VIEWS)
    ] = ViewConfig.seed,
    min_scale: Annotated[
        float, typer.Option("--min-scale", help="Smallest share of the area a crop keeps.", rich_help_panel=VIEWS)
    ] = ViewConfig.min_scale,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Mirror half of the random views.", rich_help_panel=VIEWS)
    ] = ViewConfig.flip,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Stored numbers: float16 or float32.", rich_help_panel=HOW)
    ] = "float16",
    patches: Annotated[
        bool,
        typer.Option(
            "--patches", "--local", help="Store patch features too, which --method plot needs.", rich_help_panel=HOW
        ),
    ] = False,
    pre_projection: Annotated[
        bool,
        typer.Option(
            "--pre-projection",
            help="Store features before the tower's projection too, which --method prolip needs.",
            rich_help_panel=HOW,
        ),
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    linear_backend: LinearBackendOption = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images per batch of the encoder.", rich_help_panel=HOW)
    ] = 64,
    workers: WorkersOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out.", rich_help_panel=HOW)
    ] = False,
    path_column: Annotated[
        str | None,
        typer.Option("--path-column", help="A CSV's column of paths.", rich_help_panel=WHAT, show_default="path"),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option("--label-column", help="A CSV's column of classes.", rich_help_panel=WHAT, show_default="label"),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse data of which something is left out, doubled or short.", rich_help_panel=HOW
        ),
    ] = False,
    shards: Annotated[
        int,
        typer.Option("--shards", help="Processes of this machine that divide each dataset.", rich_help_panel=SHARDS),
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="I/N: encode one of N shards, others elsewhere; the last to end joins them.",
            rich_help_panel=SHARDS,
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Encode anew and replace what is there.", rich_help_panel=HOW)
    ] = False,
    no_lock: NoLockOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Encode the images of datasets, once.

    A pass that was stopped goes on with the same command; a finished one reads nothing.
    """
    if not dataset:
        raise UsageError("wanted a dataset to encode: give --dataset; `cptlite datasets` lists the known ones")
    if strict and skip_bad:
        raise UsageError("--strict leaves nothing out, --skip-bad does: give one of them")
    if shard is not None and shards != 1:
        raise UsageError("--shards divides a dataset on this machine, --shard among several: give one of them")
    wanted_views = ViewConfig(views=views, seed=view_seed, min_scale=min_scale, flip=flip)
    from cptlite.datasets import load_catalog, read_dataset, with_columns

    specs = load_catalog().resolve(split_at_commas(dataset))
    found = [read_dataset(spec, root) for spec in with_columns(specs, path_column, label_column)]
    with loading():
        from cptlite.backbones import load_backbone
        from cptlite.cache.encode import encode_dataset
        from cptlite.cache.format import cache_path
        from cptlite.cache.sharded import encode_sharded
        from cptlite.cache.shards import Shard
        from cptlite.datasets.checks import refuse_warnings
    own_shard = None if shard is None else Shard.parse(shard)
    keep_freed_memory()
    chosen = {"name": backbone, "device": device, "precision": precision, "linear_backend": linear_backend}
    encoder = load_backbone(**chosen)
    kept: dict[str, Any] = {"views": wanted_views, "dtype": dtype, "patches": patches, "batch_size": batch_size}
    kept["pre_projection"] = pre_projection
    _show(found, encoder, kept | {"cache_dir": cache_dir, "workers": workers, "shards": shard or shards}, verbose)
    # The bytes of files are compared before a pass reads them; where there is nothing to read, only if asked for.
    first = own_shard is None or own_shard.index == 1
    new = {
        each.name: first and (force or not cache_path(cache_dir, encoder.slug, each.name).exists()) for each in found
    }
    warnings = {each.name: _warn(each, compare=strict or new[each.name]) for each in found}
    if strict:
        refuse_warnings(warnings)
    settings = kept | {"workers": workers, "skip_bad": skip_bad, "force": force, "lock": not no_lock}
    reports: dict[str, EncodeReport] = {}
    for each in found:
        with progress(each.name, "images") as tick:
            settings["on_progress"] = lambda done, total, split, tick=tick: tick(done, total)
            if shards == 1:
                reports[each.name] = encode_dataset(each, encoder, cache_dir, shard=own_shard, **settings)
            else:
                reports[each.name] = encode_sharded(each, encoder, chosen, cache_dir, shards, **settings)
        _list_bad(reports[each.name])
        if not json:
            print(f"{shown(each.name)}: {_outcome(reports[each.name])}")
    if json:
        facts = {each.name: _facts(reports[each.name]) | {"notes": each.notes} for each in found}
        print_results([{"dataset": name, **of_one, "warnings": warnings[name]} for name, of_one in facts.items()])
    _check_complete(reports if not skip_bad else {})


def _show(found: Sequence[Dataset], encoder: Backbone, settings: Mapping[str, Any], verbose: bool) -> None:
    """Print what the pass is to do."""
    views, workers = settings["views"], settings["workers"]
    told = {
        "datasets": [each.name for each in found],
        "backbone": encoder.name,
        "weights": encoder.weights_sha256[:12],
        **{name: getattr(encoder, name) for name in ("device", "precision", "linear_backend")},
        "cache_dir": settings["cache_dir"],
        **{f"views.{name}": value for name, value in asdict(views).items()},
        "dtype": settings["dtype"],
        "patches": f"{encoder.num_patches} a plain view" if settings["patches"] else "none",
        "pre_projection": f"{encoder.pre_projection_dim} a view" if settings["pre_projection"] else "none",
        "batch_size": settings["batch_size"],
        "workers": "one a core" if workers is None else workers,
        "shards": settings["shards"],
    }
    show_configuration("cache", _sum_up(told), told if verbose else None)


def _sum_up(told: dict[str, Any]) -> list[str]:
    """Say what is encoded by what, and where it goes, in three lines."""
    views = f"{told['views.views']} {'view' if told['views.views'] == 1 else 'views'}"
    return [
        f"{some(told['datasets'])}, {views}, {'no' if told['patches'] == 'none' else 'with'} patch features, as "
        f"{told['dtype']}",
        f"backbone {told['backbone']} on {told['device']}, {told['precision']}, linear layers by "
        f"{told['linear_backend']}",
        f"into {told['cache_dir']} (every setting: -v)",
    ]


def _warn(dataset: Dataset, *, compare: bool) -> list[str]:
    """Say how a dataset was read and what is odd about it; return the latter."""
    from cptlite.datasets.checks import same_bytes

    warnings = [*dataset.warnings, *(same_bytes(dataset) if compare else ())]
    for kind, lines in (("note", dataset.notes), ("warning", warnings)):
        for line in lines:
            note(f"{kind}: {shown(dataset.name)}: {shown(line)}")
    return warnings


def _outcome(report: EncodeReport) -> str:
    """Say what a pass did, in one line."""
    if report.complete_already:
        news = "task words brought up to date" if report.words_replaced else "nothing read"
        return f"complete already, {news}: {shown(report.path)}"
    resumed = f", {report.resumed_rows} more from a stopped pass" if report.resumed_rows else ""
    speed = report.encoded_rows / max(report.seconds, 1e-9)
    done = f"{report.encoded_rows} images in {report.seconds:.1f} s ({speed:.1f} images/s){resumed}"
    if report.complete:
        return f"{done}: {shown(report.path)}"
    if report.missing_rows:
        return f"{done}: {report.missing_rows} more are other shards' to encode; the last to end joins all"
    return f"{done}: not complete" if report.bad else f"{done}: the shard that is still at work joins all"


def _facts(report: EncodeReport) -> dict[str, object]:
    bad = [image._asdict() for image in report.bad]
    return {**asdict(report), "path": str(report.path), "bad": bad, "seconds": round(report.seconds, 3)}


def _list_bad(report: EncodeReport) -> None:
    for image in report.bad[:SHOWN_BAD]:
        note(f"unreadable: {image.split} {shown(image.path)}: {shown(image.reason)}")
    if len(report.bad) > SHOWN_BAD:
        note(f"unreadable: and {len(report.bad) - SHOWN_BAD} more; --json lists them all")


def _check_complete(reports: dict[str, EncodeReport]) -> None:
    """End with exit code 1 where unreadable images kept a file from being written."""
    short = {name: report for name, report in reports.items() if report.bad and not report.complete}
    if short:
        counts = "; ".join(f"{len(report.bad)} of {report.rows} images of {name}" for name, report in short.items())
        raise CptliteError(
            f"could not read {counts}: no file was written. Mend them and run the same command, which encodes only "
            "those, or leave them out with --skip-bad"
        )
