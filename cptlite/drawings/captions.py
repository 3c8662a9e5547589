"""Captions of drawings in varied wording, for training the small CLIP; some classes stay unnamed.

Source: this package's own.
"""

from __future__ import annotations

from dataclasses import replace

from numpy.random import Generator

from cptlite.drawings.scenes import ARRANGEMENTS, COLOURS, COUNTS, PATTERNS, SHAPES, Choices, Scene

__all__ = ["HELD_OUT", "caption", "training_choices"]

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
OPENINGS = ("", "", "", "a drawing of ", "a picture of ", "an image of ", "here you see ")


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


def caption(scene: Scene, rng: Generator) -> str:
    """Describe a scene: several of its attributes in a sentence, or one of them alone.

    Parameters
    ----------
    scene : Scene
        What the drawing shows.
    rng : Generator
        Advanced by the draws of the wording.

    Returns
    -------
    str
        Lower-case words; attributes may be left out, none is wrong.
    """
    text = _focused(scene, rng) if rng.random() < 0.4 else _sentence(scene, rng)
    return text + "." if rng.random() < 0.4 else text


def _choice(rng: Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def _focused(scene: Scene, rng: Generator) -> str:
    words = {
        "shape": scene.shape,
        "colour": scene.colour,
        "background": scene.background,
        "pattern": "" if scene.pattern == "plain" else scene.pattern,
        "count": COUNTS[scene.count - 1],
        "arrangement": scene.arrangement,
    }
    attribute = _choice(rng, tuple(name for name, word in words.items() if word))
    return _choice(rng, FOCUSED[attribute]).format(words[attribute])


def _sentence(scene: Scene, rng: Generator) -> str:
    """Such as "a drawing of three small red circles in a row on grey paper"."""
    parts = [_quantity(scene, rng), *_adjectives(scene, rng), _noun(scene, rng)]
    if scene.arrangement and rng.random() < 0.7:
        parts.append(scene.arrangement)
    if rng.random() < 0.3:
        parts.append(f"on {_choice(rng, ('a {} background', '{} paper', '{}'))}".format(scene.background))
    return _choice(rng, OPENINGS) + " ".join(part for part in parts if part)


def _quantity(scene: Scene, rng: Generator) -> str:
    if scene.count == 1:
        return _choice(rng, ("a", "a", "one", "a single"))
    return COUNTS[scene.count - 1] if rng.random() < 0.75 else _choice(rng, ("some", "several"))


def _adjectives(scene: Scene, rng: Generator) -> list[str]:
    words = []
    if rng.random() < 0.3 and not 5.5 < scene.radius < 14.0:
        words.append("small" if scene.radius < 10.0 else "large")
    if rng.random() < 0.7 and scene.pattern != "plain":
        words.append(scene.pattern)
    if rng.random() < 0.6:
        words.append(scene.colour)
    return words


def _noun(scene: Scene, rng: Generator) -> str:
    general = _choice(rng, ("object", "shape", "thing", "figure"))
    word = scene.shape if rng.random() < 0.6 else general
    if scene.count == 1:
        return word
    return word + ("es" if word.endswith("s") else "s")
