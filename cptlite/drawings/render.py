"""Scenes to pixels: polygons, fill patterns, and the two styles of drawing.

Source: this package's own. Axes: H, W = 64 pixels; images are RGB in [0, 1] until the last step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from cptlite.drawings.scenes import SIDE, Scene

__all__ = ["CLEAN", "SKETCH", "Style", "render"]

OVERSAMPLING = 2
RGB = {
    "red": (0.86, 0.12, 0.14),
    "green": (0.13, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.85),
    "yellow": (0.96, 0.87, 0.13),
    "orange": (0.98, 0.55, 0.08),
    "purple": (0.50, 0.16, 0.68),
    "pink": (0.98, 0.56, 0.74),
    "brown": (0.47, 0.27, 0.11),
    "white": (0.97, 0.97, 0.97),
    "grey": (0.62, 0.62, 0.62),
    "black": (0.07, 0.07, 0.07),
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a scene is drawn; strengths are largest values, each drawing takes a random share.

    Attributes
    ----------
    colour_jitter : float
        Change of each colour channel.
    noise : float
        Standard deviation of the pixel noise.
    blotches : float
        Change of brightness by a coarse paper texture.
    shade : float
        Change of brightness from one edge to the opposite one.
    fade : float
        Loss of contrast towards mid grey.
    outline : float
        Chance of a dark outline.
    """

    colour_jitter: float
    noise: float
    blotches: float
    shade: float
    fade: float
    outline: float


# What the small CLIP is trained on, and what the demo's suite looks like.
CLEAN = Style(colour_jitter=0.06, noise=0.02, blotches=0.0, shade=0.0, fade=0.1, outline=0.0)
SKETCH = Style(colour_jitter=0.10, noise=0.04, blotches=0.08, shade=0.1, fade=0.25, outline=0.8)


def render(scene: Scene, style: Style, rng: Generator) -> np.ndarray:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        What to draw.
    style : Style
        How to draw it.
    rng : Generator
        Advanced by the draws of the style.

    Returns
    -------
    ndarray of shape (64, 64, 3), uint8
        RGB pixels.
    """
    paper, ink = (_jittered(word, style, rng) for word in (scene.background, scene.colour))
    outlined = rng.random() < style.outline
    fill, edge = _masks(scene, outlined)
    image = paper + fill[..., None] * (_filled(scene, ink, rng) - paper)  # (H, W, 3)
    image = image + edge[..., None] * (0.35 * ink - image)
    image = _worn(image, style, rng)
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _jittered(word: str, style: Style, rng: Generator) -> np.ndarray:
    return np.array(RGB[word]) + rng.uniform(-style.colour_jitter, style.colour_jitter, 3)


def _filled(scene: Scene, ink: np.ndarray, rng: Generator) -> np.ndarray:
    """Colours inside the objects: the ink, with a second one where there is a pattern."""
    if scene.pattern == "plain":
        return ink  # (3,)
    light = rng.random() < 0.5
    second = ink + 0.75 * (1.0 - ink) if light else 0.3 * ink
    texture = _texture(scene.pattern, rng)
    return ink + texture[..., None] * (second - ink)  # (H, W, 3)


def _worn(image: np.ndarray, style: Style, rng: Generator) -> np.ndarray:
    """Fade, light from one side, coarse texture and noise."""
    image = 0.5 + (1.0 - rng.uniform(0.0, style.fade)) * (image - 0.5)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1.0) - 0.5
    turn, shade = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.0, style.shade)
    light = shade * (np.cos(turn) * x + np.sin(turn) * y)
    if style.blotches:
        light = light + rng.uniform(0.3, 1.0) * style.blotches * _blotches(rng)
    noise = rng.uniform(0.3, 1.0) * style.noise * rng.standard_normal((SIDE, SIDE, 3))
    return image + light[..., None] + noise


def _blotches(rng: Generator) -> np.ndarray:
    """Coarse noise in [-1, 1], of 9 x 9 knots joined by straight lines."""
    knots = rng.uniform(-1.0, 1.0, (9, 9))
    places = np.arange(SIDE) / (SIDE / 8)
    low = places.astype(int)
    share = places - low
    rows = knots[low] * (1 - share)[:, None] + knots[low + 1] * share[:, None]  # (H, 9)
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share  # (H, W)


def _masks(scene: Scene, outlined: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coverage in [0, 1] of the objects and of their outlines, each (H, W)."""
    size = (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING)
    fill, edge = Image.new("L", size), Image.new("L", size)
    draw_fill, draw_edge = ImageDraw.Draw(fill), ImageDraw.Draw(edge)
    for centre, angle in zip(scene.centres, scene.angles, strict=True):
        for part, polygon in enumerate(OUTLINES[scene.shape]):
            points = _points(polygon, centre, scene.radius, float(angle))
            draw_fill.polygon(points, fill=0 if part else 255)  # a second part is a hole
            if outlined:
                draw_edge.line([*points, points[0]], fill=255, width=OVERSAMPLING + 1)
    return _coverage(fill), _coverage(edge)


def _points(polygon: np.ndarray, centre: np.ndarray, radius: float, angle: float) -> list[tuple[int, int]]:
    """Corners on the oversampled canvas, in whole pixels so that every machine agrees."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    places = np.rint((polygon @ turn * radius + centre) * OVERSAMPLING).astype(int)
    return [(int(x), int(y)) for x, y in places]


def _coverage(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask.reduce(OVERSAMPLING), dtype=np.float64) / 255.0


def _round(count: int, radius: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """Corners of a regular polygon, the first one pointing up."""
    angles = turn + 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.sin(angles), -np.cos(angles)], 1)


def _star() -> np.ndarray:
    return np.stack([_round(5, 1.05), _round(5, 0.45, np.pi / 5)], 1).reshape(10, 2)


def _heart() -> np.ndarray:
    t = 2 * np.pi * np.arange(28) / 28
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2], 1) / 16


def _crescent() -> np.ndarray:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 22)
    inner = np.linspace(1.68 * np.pi, 0.32 * np.pi, 18)
    far = np.stack([np.cos(outer), np.sin(outer)], 1)
    near = np.stack([0.42 + 0.72 * np.cos(inner), 0.78 * np.sin(inner)], 1)
    return np.concatenate([far, near])  # (40, 2)


def _outline(*corners: tuple[float, float]) -> np.ndarray:
    return np.array(corners)


# Polygons of radius about 1 around the origin; a second one is a hole.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_round(28),),
    "square": (_round(4, 1.2, np.pi / 4),),
    "triangle": (_round(3, 1.15),),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (
        _outline(
            *((-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35)),
            *((0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)),
        ),
    ),
    "ring": (_round(28), _round(24, 0.55)),
    "crescent": (_crescent(),),
    "hexagon": (_round(6, 1.05),),
    "arrow": (
        _outline(
            *((-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0)),
            *((0.1, 0.85), (0.1, 0.3), (-1, 0.3)),
        ),
    ),
}


def _texture(pattern: str, rng: Generator) -> np.ndarray:
    """Share of the second ink in [0, 1], of shape (H, W)."""
    period = rng.uniform(7.0, 10.0)
    phases = rng.uniform(0.0, 1.0, 2)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / period  # periods from the corner
    v, u = y + phases[0], x + phases[1]
    if pattern in ("striped", "zigzag", "wavy") and rng.random() < 0.5:
        u, v = v, u
    return np.clip(0.5 + period * TEXTURES[pattern](u, v), 0.0, 1.0)


def _saw(u: np.ndarray) -> np.ndarray:
    """Triangle wave in [-1, 1] of period 1."""
    return 4 * np.abs(u - np.floor(u) - 0.5) - 1


def _bars(u: np.ndarray, share: float = 0.5) -> np.ndarray:
    """Signed distance, in periods, into bars that cover ``share`` of each period."""
    return share / 2 - np.abs(u - np.floor(u) - 0.5)


def _check(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = _bars(u), _bars(v)
    return np.where(across * down > 0, 1.0, -1.0) * np.minimum(np.abs(across), np.abs(down))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.3 - np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5)


def _brick(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    shift = 0.5 * (np.floor(v / 0.75 + 0.5) % 2)
    joints = _bars(0.6 * u + shift, 0.15) / 0.6
    return np.maximum(0.75 * _bars(v / 0.75, 0.3), joints)


# Signed distance into the second ink, in periods, at u, v in periods.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "striped": lambda u, v: _bars(u),
    "diagonal": lambda u, v: _bars(0.7 * (u + v)),
    "dotted": _dots,
    "checkered": lambda u, v: _check(u / 1.3, v / 1.3),
    "grid": lambda u, v: np.maximum(_bars(u, 0.3), _bars(v, 0.3)),
    "zigzag": lambda u, v: _bars(u + 0.3 * _saw(v)),
    "wavy": lambda u, v: _bars(u + 0.22 * np.sin(2 * np.pi * 0.6 * v)),
    "brick": _brick,
}
