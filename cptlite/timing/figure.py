"""The ratios of a bench as a PNG: how many times faster, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlite.errors import UsageError
from cptlite.reporting.figures import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_bench_plot"]

COLOURS = {
    "original": "#999999",
    "trimmed": "#56B4E9",
    "images": "#56B4E9",
    "fused": "#0072B2",
    "subsampled": "#009E73",
    "cache": "#0072B2",
    "together": "#0072B2",
}
PLAIN = "#0072B2"
BAR_INCHES = 0.27
PANEL_INCHES = 0.95
Bar = tuple[str, float, str, str]  # name, length, what is written behind it, colour


def draw_bench_plot(result: Mapping[str, Any], path: Path) -> Path:
    """Draw what was timed, one panel per stage, and write it as a PNG.

    Parameters
    ----------
    result : mapping
        As `run_bench` returns it.
    path : Path
        File to write; its folder is made.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    UsageError
        Nothing was timed.
    CptliteError
        matplotlib is not installed, or the disk is full.
    """
    panels = [(title, bars) for title, bars in _panels(result) if bars]
    if not panels:
        raise UsageError("wanted figures to draw, got none: give at least one stage")
    heights = [PANEL_INCHES + BAR_INCHES * len(bars) for _, bars in panels]
    figure = new_figure(8.2, sum(heights) + 0.4, dpi=150)
    figure.suptitle(_heading(result), fontsize=10, color="#555555", x=0.01, ha="left")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (title, bars) in zip(grid[:, 0], panels, strict=True):
        _draw_bars(axes, title, bars)
    return write_figure(figure, path)


def _heading(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    place = f"{machine['processor']}, {machine['cores']} cores" if machine["device"] == "cpu" else machine["device"]
    return f"{place}; {result['backbone']}, {result['precision']}; {result['date'][:10]}"


def _panels(result: Mapping[str, Any]) -> list[tuple[str, list[Bar]]]:
    """Title and bars of each stage."""
    titles = {
        "text": ("Text step, forward and backward: times faster than the original's way", _text_bar),
        "train": ("Training step of a run: times faster than encoding images and padding prompts", _train_bar),
        "cache": ("Caching pass: share of what the encoder does when fed from memory", _cache_bar),
        "probe": ("Linear probe's search: times faster than one thread", _probe_bar),
    }
    return [(title, [bar(row) for row in result[stage] if _has_ratio(row)]) for stage, (title, bar) in titles.items()]


def _has_ratio(row: Mapping[str, Any]) -> bool:
    return row.get("speedup", row.get("of_bound")) is not None


def _text_bar(row: Mapping[str, Any]) -> Bar:
    words = f"{row['speedup']:.1f}x   {row['step_s']:.3g} s, {row['rows']:,} rows"
    return f"{row['suite']}  {row['way']}", row["speedup"], words, COLOURS[row["way"]]


def _train_bar(row: Mapping[str, Any]) -> Bar:
    words = f"{row['speedup']:.1f}x   {row['step_s'] / row['runs']:.3g} s"
    return f"{row['suite']}  {row['way']}", row["speedup"], words, COLOURS[row["way"]]


def _cache_bar(row: Mapping[str, Any]) -> Bar:
    name = row["way"] if row["workers"] is None else f"{row['workers']} workers"
    words = f"{row['of_bound']:.2f}   {row['images_per_s']:.1f} images/s"
    return name, row["of_bound"], words, COLOURS["original"] if row["workers"] is None else PLAIN


def _probe_bar(row: Mapping[str, Any]) -> Bar:
    name = f"{row['suite']}  {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    words = f"{row['speedup']:.1f}x   {row['seconds']:.3g} s"
    return name, row["speedup"], words, COLOURS["original"] if row["threads"] == 1 else PLAIN


def _draw_bars(axes: Axes, title: str, bars: Sequence[Bar]) -> None:
    names, lengths, words, colours = zip(*bars, strict=True)
    places = range(len(bars))
    drawn = axes.barh(places, lengths, color=colours, height=0.72)
    axes.bar_label(drawn, labels=words, padding=4, fontsize=9)
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(lengths) * 1.42)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
