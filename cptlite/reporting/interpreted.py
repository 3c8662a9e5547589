"""What a run learned, to be looked at: words near its contexts, tasks beside each other, images of a class.

Axes: T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cptlite.datasets.images import UnreadableImageError, open_rgb
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError
from cptlite.reporting.figures import NAME_LENGTH, name_cells, new_figure, write_figure
from cptlite.reporting.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cptlite.runs.class_images import ClassImages
    from cptlite.runs.interpret import Context, NearWord, Similarity
    from cptlite.runs.predictions import PredictedRow

__all__ = ["class_images_table", "draw_class_sheet", "draw_similarity", "similarity_table", "words_tables"]

TITLES = {
    "context": "Words near the learned contexts",
    "task_context": "Words near the learned context of the meta network's task prompts",
    "class_context": "Words near the learned context of the meta network's class prompts",
    "generated": "Words near the contexts that the meta network makes",
}
MOST_ROWS = 500  # of a table
MOST_COUNTED = 12  # tasks whose numbers have room in a picture
MOST_NAMED = 60
SIDE = 160  # pixels of an image on a sheet


def words_tables(contexts: Sequence[Context], words: Sequence[Sequence[Sequence[NearWord]]]) -> Iterator[Table]:
    """One table for each kind of context, a row a vector: how far it moved, and the words nearest to it.

    Parameters
    ----------
    contexts : sequence of Context
    words : sequence
        Of each context, by vector.
    """
    for kind in dict.fromkeys(context.kind for context in contexts):
        rows: list[tuple[str, ...]] = []
        for context, near in zip(contexts, words, strict=True):
            label = context.label
            for token, (moved, nearest) in enumerate(zip(context.moved, near, strict=True), start=1):
                if context.kind == kind:
                    said = ", ".join(f"{each.word} {each.distance:.3f}" for each in nearest)
                    rows.append((label, str(token), "" if moved is None else f"{moved:.3f}", said))
                    label = ""
        more = f"\nleft out: {len(rows) - MOST_ROWS} more rows; give --task, --class or --json" * (
            len(rows) > MOST_ROWS
        )
        yield Table(
            title=TITLES[kind],
            columns=("for", "token", "moved", "nearest words and their distance"),
            rows=tuple(rows[:MOST_ROWS]),
            caption="moved: distance from the start, over the length of that" + more,
            words=(0, 3),
        )


def similarity_table(similarity: Similarity) -> Table:
    """Cosines of the tasks' contexts, a row and a column a task."""
    rows = [
        (str(place), task, *(f"{value:.2f}" for value in cosines))
        for place, (task, cosines) in enumerate(
            zip(similarity.tasks, similarity.cosines.tolist(), strict=True), start=1
        )
    ]
    return Table(
        title="Similarity of tasks: cosine of their contexts",
        columns=("", "task", *(row[0] for row in rows)),
        rows=tuple(rows),
        words=(1,),
    )


def class_images_table(images: ClassImages) -> Table:
    """List the nearest and the hardest images of a class, a row each."""
    columns = {"nearest": images.nearest, "hardest": images.hardest}
    rows = []
    for kind, each in columns.items():
        for place, row in enumerate(each):
            own = f"{100 * row.own_at_most:.1f}"
            said = (row.image, own, str(row.rank), row.predicted, f"{100 * row.probability:.1f}")
            rows.append(("" if place else kind, *said))
    return Table(
        title=f"{images.class_name}, of {images.task}: {images.count} test images",
        columns=("", "image", "its %", "rank", "predicted", "%"),
        rows=tuple(rows),
        caption="its %: probability of the class; where another is predicted, the most that it can be",
        words=(0, 1, 4),
    )


def draw_similarity(similarity: Similarity, path: Path) -> Path:
    """Draw the cosines of the tasks' contexts as a matrix of colours, and write it as a PNG.

    Parameters
    ----------
    similarity : Similarity
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
    cosines, count = similarity.cosines.cpu().numpy(), len(similarity.tasks)  # (T, T)
    side = 2.4 + 0.5 * count if count <= MOST_COUNTED else 4.0 + 0.2 * min(count, MOST_NAMED)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    low = min(float(cosines.min()), 0.99)  # tasks that are all alike are no reason for a scale of nothing
    drawn = axes.imshow(cosines, cmap="viridis", vmin=low, vmax=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="cosine")
    name_cells(axes, similarity.tasks, MOST_NAMED)
    if count <= MOST_COUNTED:
        for row, values in enumerate(cosines.tolist()):
            for column, value in enumerate(values):
                colour = "black" if value > (low + 1) / 2 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_title("similarity of the tasks' contexts", fontsize=10)
    return write_figure(figure, path)


def draw_class_sheet(images: ClassImages, files: Mapping[str, Path], path: Path) -> Path:
    """Draw the nearest images of a class above its hardest ones, each with what is said of it, and write it as a PNG.

    Parameters
    ----------
    images : ClassImages
    files : mapping of str to Path
        By what predictions call an image.
    path : Path
        File to write; its folder is made.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    DataError
        An image cannot be read.
    CptliteError
        matplotlib is not installed, or the disk is full.
    """
    bands = [each for each in (("nearest", images.nearest), ("hardest", images.hardest)) if each[1]]
    across = max(3, *(len(rows) for _, rows in bands))
    figure = new_figure(1.35 * across, 1.95 * len(bands) + 0.3)
    parts = figure.subfigures(len(bands), squeeze=False).ravel()
    for part, (kind, rows) in zip(parts, bands, strict=True):
        part.suptitle(kind, x=0.01, ha="left", fontsize=9, fontweight="bold")
        for axes, row in zip_longest(part.subplots(1, across), rows):
            axes.set_axis_off()
            if row is not None:
                _draw_image(axes, row, files[row.image])
    title = f"{shown(images.class_name)}, of {shown(images.task)}: {images.count} test images"
    figure.suptitle(title, x=0.008, ha="left", fontsize=11, parse_math=False)
    return write_figure(figure, path)


def _draw_image(axes: Axes, row: PredictedRow, file: Path) -> None:
    """One image; above it the class that is predicted with its probability, and what that of the true one is."""
    try:
        image = open_rgb(file)
    except UnreadableImageError as error:
        raise DataError(
            f"wanted an image at {shown(file)}, got one that cannot be read ({shown(error)}): put back what was cached"
        ) from None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    axes.imshow(image)
    said = f"{shown(row.predicted)[:NAME_LENGTH]} {100 * row.probability:.0f} %"
    behind = "" if row.rank == 1 else f"\nits class at most {100 * row.own_at_most:.0f} %, rank {row.rank}"
    axes.set_title(said + behind, fontsize=6, parse_math=False)
