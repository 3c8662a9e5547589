"""Figures of matplotlib, which is an extra: made without a display, and written as PNG, all of it or nothing."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cptlite.errors import CptliteError
from cptlite.files import write_alone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "write_figure"]


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


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, in a folder that is made; return the path."""
    picture = BytesIO()
    figure.savefig(picture, format="png", facecolor="white")
    write_alone(path, picture.getvalue())
    return path
