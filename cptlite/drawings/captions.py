"""Captions of drawings in varied wording, for training the small CLIP; some classes stay unnamed.

Source: this package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from numpy.random import Generator

from cptlite.drawings.scenes import ARRANGEMENTS, COLOURS, COUNTS, PATTERNS, SHAPES, Choices, Scene

__all__ = ["ATTRIBUTES", "HELD_OUT", "Caption", "attributes", "caption", "training_choices"]

ATTRIBUTES = ("shape", "colour", "background", "pattern", "count", "arrangement", "size", "number")

# Classes of the demo's tasks that the small CLIP neither sees nor reads. It never sees a digit either.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "shapes": ("heart", "arrow"),
    "colours": ("orange", "pink"),
    "patterns": ("diagonal", "zigzag"),
    "counts": ("five", "seven"),
    "arrangements": ("on a diagonal", "in a corner"),
}

# One attribute alone, in words that leave its meaning to the context: "red" may be the paper's colour.
FOCUSED: dict[str, tuple[str, ...]] = {
    "shape": ("{}", "a {}", "a picture of a {}", "shape: {}", "the shape is a {}", "one {} or more"),
    "colour": ("{}", "a {} thing", "a picture of something {}", "colour: {}", "the ink is {}"),
    "background": ("{}", "a {} background", "a drawing on {} paper", "the paper is {}"),
    "pattern": ("{}", "a {} fill", "a picture of something {}", "pattern: {}", "a {} pattern"),
    "count": ("{}", "{} things", "a picture of {} objects", "there are {}", "count: {}"),
    "arrangement": ("{}", "things {}", "a picture of shapes {}", "placed {}", "all {}"),
}
# How often a sentence mentions an attribute.
CHANCES = {
    "count": 0.7,
    "size": 0.3,
    "pattern": 0.8,
    "colour": 0.6,
    "shape": 0.75,
    "arrangement": 0.75,
    "background": 0.3,
}
NOUNS = ("object", "shape", "thing", "figure")
PLACES = ("on a {} background", "on {} paper", "on {}")
OPENINGS = ("", "", "", "a drawing of ", "a picture of ", "an image of ", "here you see ")


@dataclass(frozen=True)
class Caption:
    """A caption and what it says, so that other drawings it is true of can be told.

    Attributes
    ----------
    text : str
        Lower-case words.
    says : frozenset of str
        The `ATTRIBUTES` it gives.
    """

    text: str
    says: frozenset[str]


def _without(words: tuple[str, ...], task: str) -> tuple[str, ...]:
    return tuple(word for word in words if word not in HELD_OUT[task])


def training_choices() -> Choices:
    """List what the drawings for training may show: everything but `HELD_OUT`.

    Returns
    -------
    Choices
        Single objects are as frequent as several; coloured paper is rarer than white, grey and black.
    """
    numbers = tuple(COUNTS.index(word) + 1 for word in _without(COUNTS, "counts"))
    colours = _without(COLOURS, "colours")
    plain = replace(Choices(), colours=colours)
    return replace(
        plain,
        shapes=_without(SHAPES, "shapes"),
        patterns=("plain", "plain", *_without(PATTERNS, "patterns")),
        arrangements=_without(tuple(ARRANGEMENTS), "arrangements"),
        backgrounds=plain.backgrounds * 3 + colours,
        counts=(1,) * (len(numbers) + 1) + numbers,
    )


def attributes(scene: Scene) -> dict[str, str]:
    """Words for all that a caption may say of a scene, "" for what does not apply.

    Returns
    -------
    dict of str to str
        Keys are `ATTRIBUTES`.
    """
    size = "" if 5.5 < scene.radius < 14.0 else "small" if scene.radius < 10.0 else "large"
    return {
        "shape": scene.shape,
        "colour": scene.colour,
        "background": scene.background,
        "pattern": "" if scene.pattern == "plain" else scene.pattern,
        "count": COUNTS[scene.count - 1],
        "arrangement": scene.arrangement,
        "size": size,
        "number": "singular" if scene.count == 1 else "plural",
    }


def caption(scene: Scene, rng: Generator) -> Caption:
    """Describe a scene: several of its attributes in a sentence, or one of them alone.

    Parameters
    ----------
    scene : Scene
        What the drawing shows.
    rng : Generator
        Advanced by the draws of the wording.

    Returns
    -------
    Caption
        Attributes may be left out, none is wrong.
    """
    words = attributes(scene)
    said = _focused(words, rng) if rng.random() < 0.4 else _sentence(words, rng)
    return replace(said, text=said.text + ".") if rng.random() < 0.4 else said


def _choice(rng: Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _focused(words: Mapping[str, str], rng: Generator) -> Caption:
    name = _choice(rng, tuple(name for name in FOCUSED if words[name]))
    return Caption(_choice(rng, FOCUSED[name]).format(words[name]), frozenset({name}))


def _sentence(words: Mapping[str, str], rng: Generator) -> Caption:
    """Such as "a drawing of three small red circles in a row on grey paper"."""
    single = words["number"] == "singular"
    says = {"number"} | {name for name, chance in CHANCES.items() if rng.random() < chance}
    says = {name for name in says if words[name]}
    vague = ("a", "a single") if single else ("some", "several")
    noun = words["shape"] if "shape" in says else _choice(rng, NOUNS)
    parts = [
        words["count"] if "count" in says else _choice(rng, vague),
        *(words[name] for name in ("size", "pattern", "colour") if name in says),
        noun if single else noun + ("es" if noun.endswith("s") else "s"),
    ]
    if "arrangement" in says:
        parts.append(words["arrangement"])
    if "background" in says:
        parts.append(_choice(rng, PLACES).format(words["background"]))
    return Caption(_choice(rng, OPENINGS) + " ".join(parts), frozenset(says))
