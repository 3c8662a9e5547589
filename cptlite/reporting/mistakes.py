"""What a run gets wrong: tables of classes and of confused pairs, pictures of confusion and of calibration.

Axes: C classes of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cptlite.datasets.text_files import shown
from cptlite.metrics import calibration_bins, calibration_error, confusion_matrix
from cptlite.reporting.figures import name_cells, new_figure, write_figure
from cptlite.reporting.results import Result
from cptlite.reporting.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cptlite.runs.predictions import TaskPredictions

__all__ = ["class_table", "confused_table", "draw_confusion", "draw_reliability"]

MOST_PAIRS = 15  # in a table of all tasks
MOST_NAMED = 40  # classes of a task whose names have room beside a picture
MOST_COUNTED = 12  # whose numbers have room in it
BLUE, RED = "#0072B2", "#D55E00"


def class_table(results: Result) -> Table:
    """One row a class: its test images, the share that is predicted right, and what the others are taken for most."""
    rows = []
    for task, scores in results["tasks"].items():
        mistakes = results["mistakes"][task]
        columns = (scores["classes"], scores["recall"], mistakes["class_rows"], mistakes["taken_for"])
        for name, recall, count, other in zip(*columns, strict=True):
            percent = "" if recall is None else f"{100 * recall:.1f}"
            rows.append((task, name, str(count), percent, other or ""))
    return Table(
        title="Recall by class (%)",
        columns=("task", "class", "images", "recall", "taken for"),
        rows=tuple(rows),
        caption="taken for: the class that most of the others are predicted as",
        words=(0, 1, 4),
    )


def confused_table(results: Result) -> Table:
    """Pairs of classes that are confused most, of all tasks, and the expected calibration error of each task."""
    pairs = [(task, pair) for task, each in results["mistakes"].items() for pair in each["confused"]]
    pairs.sort(key=lambda each: -each[1]["rows"])
    errors = ", ".join(f"{task} {100 * each['ece']:.1f}" for task, each in results["mistakes"].items())
    return Table(
        title="Most confused",
        columns=("task", "class", "taken for", "images", "% of the class"),
        rows=tuple(
            (task, pair["label"], pair["predicted"], str(pair["rows"]), f"{100 * pair['share']:.1f}")
            for task, pair in pairs[:MOST_PAIRS]
        ),
        caption=f"expected calibration error (%): {errors}",
        words=(0, 1, 2),
    )


def draw_confusion(predictions: Sequence[TaskPredictions], path: Path) -> Path:
    """Draw how often each class is taken for each, one panel a task, and write it as a PNG.

    Parameters
    ----------
    predictions : sequence of TaskPredictions
    path : Path
        File to write; its folder is made.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    CptliteError
        matplotlib is not installed, or the disk is full.
    """
    most = max(min(len(each.task.class_names), MOST_NAMED) for each in predictions)
    return _draw_panels(predictions, path, 2.4 + 0.2 * most, _draw_confusion)


def draw_reliability(predictions: Sequence[TaskPredictions], path: Path) -> Path:
    """Draw how often predictions are right by how sure they are, one panel a task; else as `draw_confusion`."""
    return _draw_panels(predictions, path, 3.2, _draw_reliability)


def _draw_panels(
    predictions: Sequence[TaskPredictions], path: Path, side: float, draw: Callable[[Axes, TaskPredictions], None]
) -> Path:
    across = min(3, len(predictions))
    down = ceil(len(predictions) / across)
    figure = new_figure(side * across, side * down)
    grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for axes, each in zip(grid, predictions, strict=False):
        draw(axes, each)
    for axes in grid[len(predictions) :]:
        axes.set_axis_off()
    return write_figure(figure, path)


def _draw_confusion(axes: Axes, each: TaskPredictions) -> None:
    names = each.task.class_names
    counts = confusion_matrix(each.labels, each.predicted, len(names))  # (C, C)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    name_cells(axes, names, MOST_NAMED)
    if len(names) <= MOST_COUNTED:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                colour = "white" if share > 50 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class (% of its images)")
    axes.set_title(shown(each.task.id), fontsize=10, parse_math=False)


def _draw_reliability(axes: Axes, each: TaskPredictions) -> None:
    bins = calibration_bins(each.labels == each.predicted, each.probabilities)
    width = bins[0].high - bins[0].low
    lows = [one.low for one in bins]
    rows = [one.rows / len(each.labels) for one in bins]
    heights = [one.accuracy if one.rows else 0.0 for one in bins]
    axes.bar(lows, heights, width, align="edge", color=BLUE, edgecolor="white", label="right")
    axes.bar(lows, rows, width, align="edge", color="none", edgecolor="black", linewidth=0.8, label="share of images")
    axes.plot([0, 1], [0, 1], color=RED, linestyle="--", linewidth=1.2, label="as sure as right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("share")
    axes.legend(fontsize=6, loc="upper left")
    error = 100 * calibration_error(bins)
    axes.set_title(f"{shown(each.task.id)}: ECE {error:.1f} %", fontsize=10, parse_math=False)
