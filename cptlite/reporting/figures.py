"""Figures of matplotlib, which is an extra: made without a display, and written as PNG, all of it or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError
from cptlite.files import write_alone

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NAME_LENGTH", "name_cells", "new_figure", "write_figure"]

NAME_LENGTH = 24  # characters of a name that have room in a picture


def new_figure(width: float, height: float, *, dpi: int = 160) -> Figure:
    """Make a figure of some size in inches.

    Raises
    ------
    CptliteError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CptliteError(
            "drawing a plot needs matplotlib, which is not installed. Install it with: pip install 'cptlite[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def name_cells(axes: Axes, names: Sequence[str], most: int) -> None:
    """Name the rows and the columns of a square matrix, unless there are more than have room."""
    ticks = range(len(names)) if len(names) <= most else ()
    labels = [shown(names[tick])[:NAME_LENGTH] for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(ticks, labels, fontsize=7, parse_math=False)


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, in a folder that is made; return the path."""
    picture = BytesIO()
    figure.savefig(picture, format="png", facecolor="white")
    write_alone(path, picture.getvalue())
    return path
