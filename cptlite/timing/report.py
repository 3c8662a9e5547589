"""The figures of a bench as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cptlite.reporting import Table

__all__ = ["bench_tables"]

Figures = Mapping[str, Any]
Column = tuple[str, Callable[[Figures], str]]


def _seconds(name: str) -> Callable[[Figures], str]:
    return lambda row: f"{row[name]:.3g}" if row[name] < 100 else f"{row[name]:.0f}"


def _times(name: str) -> Callable[[Figures], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:.1f}x"


def _word(name: str) -> Callable[[Figures], str]:
    return lambda row: str(row[name])


TITLES = {
    "text": "Text path: one step over all classes",
    "train": "Training SoftCPT",
    "cache": "Caching pass over JPEG files",
    "probe": "Linear probe: the search for C",
}
CAPTIONS = {
    "text": "step: forward and backward; rate: of the matrix products'; difference: relative, from the original, "
    "subsampled from fused",
    "train": "step: of all runs at a time; an epoch: of one run, its share of the step times the steps of an epoch",
    "cache": "bound: the encoder fed from memory",
    "probe": "",
}
WORDS = {"text": (0, 1), "train": (0, 1), "cache": (0,), "probe": (0,)}
COLUMNS: dict[str, tuple[Column, ...]] = {
    "text": (
        ("suite", _word("suite")),
        ("way", _word("way")),
        ("token rows", lambda row: f"{row['rows']:,}"),
        ("forward (s)", _seconds("forward_s")),
        ("step (s)", _seconds("step_s")),
        ("speedup", _times("speedup")),
        ("peak (MiB)", lambda row: f"{row['peak_mib']:,.0f}"),
        ("rate", lambda row: f"{row['rate_vs_matmul']:.2f}"),
        ("difference", lambda row: f"{row['max_rel_diff']:.1e}" if row["max_rel_diff"] else ""),
    ),
    "train": (
        ("suite", _word("suite")),
        ("way", _word("way")),
        ("runs", _word("runs")),
        ("step (s)", _seconds("step_s")),
        ("its text (s)", lambda row: "" if row["text_s"] is None else f"{row['text_s']:.3g}"),
        ("steps", _word("steps_per_epoch")),
        ("epoch (s)", _seconds("epoch_s")),
        ("speedup", _times("speedup")),
    ),
    "cache": (
        ("way", _word("way")),
        ("workers", lambda row: "" if row["workers"] is None else str(row["workers"])),
        ("images", _word("images")),
        ("images/s", lambda row: f"{row['images_per_s']:.1f}"),
        ("of the bound", lambda row: f"{row['of_bound']:.2f}"),
    ),
    "probe": (
        ("suite", _word("suite")),
        ("threads", _word("threads")),
        ("rows", _word("rows")),
        ("dim", _word("dim")),
        ("seconds", _seconds("seconds")),
        ("speedup", _times("speedup")),
    ),
}


def bench_tables(result: Mapping[str, Any]) -> list[Table]:
    """One table per stage that was timed.

    Parameters
    ----------
    result : mapping
        As `run_bench` returns it.

    Returns
    -------
    list of Table
    """
    machine = result["machine"]
    place = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    facts = f"{place}, {machine['threads']} threads, {result['precision']}, {result['matmul_gflops']:.0f} GFLOP/s"
    return [
        Table(
            title=f"{TITLES[stage]} ({facts})",
            columns=tuple(name for name, _ in columns),
            rows=tuple(tuple(word(row) for _, word in columns) for row in result[stage]),
            caption=CAPTIONS[stage],
            words=WORDS[stage],
        )
        for stage, columns in COLUMNS.items()
        if result[stage]
    ]
