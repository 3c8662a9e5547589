"""What a drawing shows: one kind of object, how many, and where.

Source: this package's own. Lengths are in pixels of a 64 x 64 drawing, x to the right, y downwards.
Axes: N objects of one drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

__all__ = [
    "ARRANGEMENTS",
    "COLOURS",
    "COUNTS",
    "PATTERNS",
    "SHAPES",
    "SIDE",
    "Choices",
    "Scene",
    "sample_scene",
]

SIDE = 64
MARGIN = 2.0
MIN_PATTERN_RADIUS = 14.0  # below it fewer than three periods are visible

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "crescent",
    "hexagon",
    "arrow",
)
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown")
PATTERNS = ("striped", "diagonal", "dotted", "checkered", "grid", "zigzag", "wavy", "brick")
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
BACKGROUNDS = ("white", "grey", "black")

# How many objects show an arrangement unmistakably.
ARRANGEMENTS = {
    "in a row": (3, 4, 5, 6),
    "in a column": (3, 4, 5, 6),
    "on a diagonal": (3, 4, 5),
    "in a circle": (5, 6, 7, 8),
    "in a grid": (4, 6, 8),
    "in a triangle": (3, 6),
    "in a corner": (3, 4),
    "scattered around": (3, 4, 5, 6, 7, 8),
}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What `sample_scene` may draw; a single entry fixes an attribute.

    Attributes
    ----------
    shapes, colours, patterns, arrangements, backgrounds : tuple of str
        Words of this module's tables; ``patterns`` may also hold ``"plain"``.
    counts : tuple of int
        Numbers of objects, 1 to 8; 1 has no arrangement.
    radii : tuple of two floats
        Least and largest radius of a single object.
    """

    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = COLOURS
    patterns: tuple[str, ...] = ("plain", *PATTERNS)
    arrangements: tuple[str, ...] = tuple(ARRANGEMENTS)
    backgrounds: tuple[str, ...] = BACKGROUNDS
    counts: tuple[int, ...] = tuple(range(1, 9))
    radii: tuple[float, float] = (9.0, 26.0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One drawing before it is drawn.

    Attributes
    ----------
    shape, colour, pattern, background : str
        Words; a background is one of `BACKGROUNDS` or of `COLOURS`.
    arrangement : str
        Key of `ARRANGEMENTS`, or "" for one or two objects.
    centres : ndarray of shape (N, 2)
        Positions of the objects.
    radius : float
        Half the size of each object.
    angles : ndarray of shape (N,)
        Rotation of each object, radians.
    """

    shape: str
    colour: str
    pattern: str
    background: str
    arrangement: str
    centres: np.ndarray
    radius: float
    angles: np.ndarray

    @property
    def count(self) -> int:
        """Number of objects N."""
        return len(self.centres)


def sample_scene(rng: Generator, choices: Choices) -> Scene:
    """Draw a scene's attributes and positions.

    Parameters
    ----------
    rng : Generator
        Advanced by the draws.
    choices : Choices
        What may appear.

    Returns
    -------
    Scene
        Its count suits its arrangement, its colour differs from its background.
    """
    count = int(rng.choice(choices.counts))
    arrangement, centres, radius = _place(rng, count, choices)
    patterns = choices.patterns if radius >= MIN_PATTERN_RADIUS else ("plain",)
    background = _pick(rng, choices.backgrounds)
    colours = tuple(word for word in choices.colours if word != background)
    if not colours:  # the colour is fixed, so the background gives way
        colours, background = choices.colours, _pick(rng, BACKGROUNDS)
    return Scene(
        shape=_pick(rng, choices.shapes),
        colour=_pick(rng, colours),
        pattern=_pick(rng, patterns),
        background=background,
        arrangement=arrangement,
        centres=centres,
        radius=radius,
        angles=rng.uniform(-0.2, 0.2, count),
    )


def _pick(rng: Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _place(rng: Generator, count: int, choices: Choices) -> tuple[str, np.ndarray, float]:
    """Arrangement, centres of shape (N, 2) and radius for ``count`` objects."""
    if count == 1:
        radius = float(rng.uniform(*choices.radii))
        low = MARGIN + radius
        return "", rng.uniform(low, max(low, SIDE - low) + 1e-6, (1, 2)), radius
    fitting = tuple(name for name in choices.arrangements if count in ARRANGEMENTS[name])
    arrangement = _pick(rng, fitting) if fitting else ""
    offsets, spacing = LAYOUTS[arrangement or "scattered around"](rng, count)
    room = (SIDE - 2 * MARGIN - float(np.ptp(offsets, axis=0).max())) / 2
    radius = min(0.5 * spacing * float(rng.uniform(0.6, 0.9)), 9.0, room)
    low, high = offsets.min(0) - radius, offsets.max(0) + radius
    if arrangement != "in a corner":  # a corner's offsets are already positions
        offsets = offsets + rng.uniform(MARGIN - low, np.maximum(SIDE - MARGIN - high, MARGIN - low))
    return arrangement, offsets, radius


# Each layout returns offsets of shape (N, 2) and the least distance between two of them.
Layout = Callable[[Generator, int], tuple[np.ndarray, float]]


def _row(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    spacing = rng.uniform(0.75, 1.0) * min(20.0, 48.0 / (count - 1))
    wobble = rng.uniform(-0.8, 0.8, count)
    return np.stack([np.arange(count) * spacing, wobble], 1), spacing


def _column(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    offsets, spacing = _row(rng, count)
    return offsets[:, ::-1], spacing


def _diagonal(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    offsets, spacing = _row(rng, count)
    sign = rng.choice((-1.0, 1.0))
    steps, wobble = offsets.T
    return np.stack([steps, sign * steps + wobble], 1), spacing


def _circle(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    size, turn = rng.uniform(17.0, 23.0), rng.uniform(0.0, 2 * np.pi)
    angles = turn + 2 * np.pi * np.arange(count) / count
    return size * np.stack([np.cos(angles), np.sin(angles)], 1), 2 * size * np.sin(np.pi / count)


def _grid(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    shape = (2, count // 2) if rng.random() < 0.5 else (count // 2, 2)
    spacing = rng.uniform(0.75, 1.0) * min(18.0, 48.0 / (count // 2 - 1))
    cells = np.stack(np.unravel_index(np.arange(count), shape), 1)
    return cells * spacing + rng.uniform(-0.6, 0.6, (count, 2)), spacing


def _triangle(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    rows = 2 if count == 3 else 3
    spacing = rng.uniform(0.75, 1.0) * (24.0 if count == 3 else 19.0)
    cells = [(place - row / 2, 0.87 * row) for row in range(rows) for place in range(row + 1)]
    flip = np.array([1.0, rng.choice((-1.0, 1.0))])
    return np.array(cells) * spacing * flip, spacing


def _corner(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    cells = rng.permutation(4)[:count]
    near = 7.0 + 12.0 * np.stack(np.divmod(cells, 2), 1) + rng.uniform(-1.0, 1.0, (count, 2))
    far = rng.random(2) < 0.5
    return np.where(far, SIDE - near, near), 10.5


def _scattered(rng: Generator, count: int) -> tuple[np.ndarray, float]:
    cells = rng.permutation(9)[:count]
    jitter = rng.uniform(-4.0, 4.0, (count, 2))
    return 19.0 * np.stack(np.divmod(cells, 3), 1) + jitter, 13.0


LAYOUTS: dict[str, Layout] = {
    "in a row": _row,
    "in a column": _column,
    "on a diagonal": _diagonal,
    "in a circle": _circle,
    "in a grid": _grid,
    "in a triangle": _triangle,
    "in a corner": _corner,
    "scattered around": _scattered,
}
