"""Accuracy against shots, one line with a band per method and configuration, as a PNG.

Colours: from Okabe and Ito's and Tol's palettes, which colour-blind readers can tell apart; the
markers differ as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from cptlite.datasets.text_files import shown
from cptlite.errors import UsageError
from cptlite.reporting.figures import new_figure, write_figure
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, Summary, group_results, line_up, seeds_label
from cptlite.shots import ALL_SHOTS, say_shots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "GREY",
    "Score",
    "draw_curves",
    "draw_shots_plot",
    "note_seeds",
    "one_group",
    "set_shots_axis",
    "shot_places",
]

Score = Callable[[Summary], tuple[float, float]]
"""What of a summary is drawn: mean and standard deviation, in [0, 1]."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#332288", "#E69F00", "#56B4E9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one fewer than colours, so that pairs repeat late
GREY = "#555555"
LABEL_GAP = 0.052  # of the axis' height, between labels of neighbouring lines, for each row of words
LABEL_WIDTH = 28  # characters of a row of words
BAND = 0.14  # opacity: where three lie over each other, lines are still to be told apart
MARGIN = 0.25  # in log2 shots, left and right of the data


def draw_shots_plot(results: Sequence[Result], path: Path, title: str | None = None) -> Path:
    """Draw the suite score against the shots, in bands of a deviation, and write it as a PNG.

    Parameters
    ----------
    results : sequence of mapping
        Results over the same tasks and backbone. Zero-shot becomes a dashed line.
    path : Path
        File to write; its folder is made.
    title : str, optional
        Above the plot; by default suite, backbone and number of tasks.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    UsageError
        There is nothing to draw, or the results are over different tasks or backbones.
    CptliteError
        matplotlib is not installed, or the disk is full.
    """
    name, together = one_group(results)
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    lines = line_up(together)
    summaries = [summary for line in lines for summary in line.summaries().values()]
    _name_lines(axes, draw_curves(axes, lines, lambda summary: (summary.mean, summary.std)))
    _dress(axes, summaries, title or name)
    return write_figure(figure, path)


def one_group(results: Sequence[Result]) -> tuple[str, list[Result]]:
    """Return the title and the results of the one group that a plot is of.

    Raises
    ------
    UsageError
        There are several, or none.
    """
    groups = group_results(results)
    if len(groups) != 1:
        raise UsageError(
            "a plot wants results over one suite and backbone, "
            f"got {len(groups)}{': ' + '; '.join(groups) if groups else ''}."
        )
    return next(iter(groups.items()))


def draw_curves(axes: Axes, lines: Sequence[Line], score: Score) -> list[tuple[float, str, str]]:
    """Draw one curve per method and configuration, with a band of a standard deviation; zero-shot as a dashed line.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    lines : sequence of Line
    score : callable
        What of a summary is drawn.

    Returns
    -------
    list of (float, str, str)
        Of each line its height at the right end in percent, its name and its colour.
    """
    few_shot = [line for line in lines if any(line.runs)]
    places = shot_places(number for line in few_shot for number in line.runs)
    ends: list[tuple[float, str, str]] = []
    for index, line in enumerate(few_shot):
        summaries = list(line.summaries().values())
        colour = COLOURS[index % len(COLOURS)]
        x = [places[summary.shots] for summary in summaries]
        scores = [score(summary) for summary in summaries]
        means = [100 * mean for mean, _ in scores]
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(x, means, color=colour, marker=marker, markersize=5.5, linewidth=1.8, label=_shown(line))
        if _several_seeds(summaries) and len(x) == 1:  # a band of no width
            axes.errorbar(x, means, [100 * std for _, std in scores], color=colour, elinewidth=1.0, capsize=2.5)
        elif _several_seeds(summaries):
            low, high = ([100 * (mean + side * std) for mean, std in scores] for side in (-1, 1))
            axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
        ends.append((means[-1], line.label, colour))
    for line in lines:
        if not any(line.runs):
            (summary,) = line.summaries().values()
            height = 100 * score(summary)[0]
            axes.axhline(height, color=GREY, linestyle=(0, (5, 3)), linewidth=1.4, zorder=1, label=_shown(line))
            ends.append((height, line.label, GREY))
    return ends


def _shown(line: Line) -> str:
    """Name of a line for a legend, which hides what begins with an underscore."""
    return "\n".join(wrap(shown(line.label), LABEL_WIDTH, break_on_hyphens=False)).lstrip("_")


def _name_lines(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name beside its end, pushed apart where they would overlap."""
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends = sorted(
        (height, "\n".join(wrap(shown(name), LABEL_WIDTH, break_on_hyphens=False)), colour)
        for height, name, colour in ends
    )
    wanted = [(height - low) / (high - low) for height, _, _ in ends]
    most = max(name.count("\n") + 1 for _, name, _ in ends)
    for (_, name, colour), height in zip(ends, spread(wanted, most * LABEL_GAP), strict=True):
        axes.annotate(
            name,
            xy=(1.015, height),
            xycoords="axes fraction",
            color=colour,
            va="center",
            fontsize=10 if most == 1 else 9,
            annotation_clip=False,
            parse_math=False,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move ascending positions apart, as little as can be, until neighbours differ by ``gap``.

    Parameters
    ----------
    wanted : sequence of float
        Ascending positions.
    gap : float
        Smallest difference between neighbours in the result.

    Returns
    -------
    list of float
        Ascending, one per wanted position; least squares away from them.
    """
    # Less i * gap each, "apart" becomes "not descending": pool neighbours that descend.
    pools: list[tuple[float, int]] = []  # mean, size
    for index, position in enumerate(wanted):
        pools.append((position - index * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, size), (other, others) = pools.pop(), pools.pop()
            pools.append(((mean * size + other * others) / (size + others), size + others))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + index * gap for index, mean in enumerate(flat)]


def shot_places(shots: Iterable[int]) -> dict[int, int]:
    """Where numbers of shots lie on the axis: all images behind the largest number, at twice that."""
    numbers = sorted({*shots} - {0}) or [1]
    counted = [number for number in numbers if number != ALL_SHOTS]
    return {number: number if number in counted else 2 * max(counted, default=1) for number in numbers}


def set_shots_axis(axes: Axes, summaries: Sequence[Summary]) -> None:
    """Dress axes: ticks at the shots, a grid, no box."""
    places = shot_places(summary.shots for summary in summaries)
    ticks = list(places.values())
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] * 2**-MARGIN, ticks[-1] * 2**MARGIN)
    axes.set_xticks(ticks, [str(say_shots(count)) for count in places])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def note_seeds(summaries: Sequence[Summary]) -> str:
    """Say what a line and its band are."""
    prefix = "mean and sample standard deviation over " if _several_seeds(summaries) else ""
    return f"{prefix}{seeds_label(summaries)}"


def _dress(axes: Axes, summaries: Sequence[Summary], title: str) -> None:
    """Axes, ticks at the shots, grid and title."""
    set_shots_axis(axes, summaries)
    axes.set_xlabel("training images per class (shots)")
    parts = {part for summary in summaries for part in summary.parts}
    axes.set_ylabel(
        f"suite score{' of base and new classes, H' * ('H' in parts)}{' of unseen tasks' * ('unseen' in parts)} (%)"
    )
    axes.set_title(shown(title), loc="left", fontsize=12, fontweight="bold", pad=20, parse_math=False)
    words: dict[str, Any] = {"fontsize": 9, "color": GREY, "va": "bottom"}
    axes.text(0, 1.02, note_seeds(summaries), transform=axes.transAxes, **words)


def _several_seeds(summaries: Sequence[Summary]) -> bool:
    return any(len(summary.seeds) > 1 for summary in summaries)
