"""Tasks of the published suites' sizes: how many classes, and names of as many tokens as the real ones.

What a text encoder has to do depends on the names' tokens alone, so names made up of any words with the same number of
tokens, and as many shared beginnings, take the same time as the real ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cptlite.errors import UsageError
from cptlite.text.layout import TokenSource

__all__ = ["SUITES", "TaskSize", "made_up_names", "suite_names"]

STOP_TOKENS = 2  # the full stop and EOS behind every name
Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class TaskSize:
    """Token statistics of a task's class names.

    Attributes
    ----------
    classes : int
    tokens : int
        Of all names together, each with its full stop and EOS.
    longest : int
        Tokens of the longest name, with full stop and EOS.
    rows : int
        Nodes of the trie over these tokens: what is left when names share their beginnings.
    """

    classes: int
    tokens: int
    longest: int
    rows: int


def _plain(classes: int) -> TaskSize:
    """Names of one and two tokens, half of each, that share nothing: typical of small tasks."""
    return TaskSize(classes, 3 * classes + classes // 2, 4, 3 * classes + classes // 2)


# Measured on the ten datasets' real class names.
GENERAL10 = {
    "caltech101": TaskSize(100, 347, 5, 344),
    "dtd": TaskSize(47, 186, 5, 186),
    "eurosat": TaskSize(10, 44, 6, 44),
    "fgvc_aircraft": TaskSize(100, 724, 10, 555),
    "food101": TaskSize(101, 421, 8, 410),
    "oxford_flowers": TaskSize(102, 463, 8, 458),
    "oxford_pets": TaskSize(37, 154, 6, 152),
    "stanford_cars": TaskSize(196, 2065, 18, 1130),
    "sun397": TaskSize(397, 1580, 7, 1464),
    "ucf101": TaskSize(101, 414, 7, 398),
}
PLANT6 = {
    "fruit_vegetable": _plain(36),
    "kaggle_flower": _plain(5),
    "kaggle_mushroom": _plain(9),
    "kaggle_vegetable": _plain(15),
    "plant_seedling": TaskSize(12, 54, 6, 53),
    "plant_village": TaskSize(39, 242, 11, 188),
}
# 20 tasks with 78 classes in all.
FASHION20 = {f"fashion20/{index}": _plain(4 if index < 18 else 3) for index in range(20)}
SUITES: dict[str, dict[str, TaskSize]] = {"general10": GENERAL10, "plant6": PLANT6, "fashion20": FASHION20}


def suite_names(suite: str, tokenizer: TokenSource, given: Names | None = None) -> dict[str, list[str]]:
    """Class names of a suite by task.

    Parameters
    ----------
    suite : str
        One of `SUITES`.
    tokenizer : TokenSource
    given : mapping of str to sequence of str, optional
        Real names by task; they are taken if all tasks of the suite are among them.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    UsageError
        Unknown suite.
    """
    if suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}: give one of {', '.join(SUITES)}")
    sizes = SUITES[suite]
    if given is not None and sizes.keys() <= given.keys():
        return {task: list(given[task]) for task in sizes}
    words = list(itertools.islice(_one_token_words(tokenizer), 2 * max(size.classes for size in sizes.values())))
    return {task: made_up_names(size, words, seed=index) for index, (task, size) in enumerate(sizes.items())}


def made_up_names(size: TaskSize, words: Sequence[str], *, seed: int) -> list[str]:
    """Make names with the token statistics of ``size``.

    Parameters
    ----------
    size : TaskSize
    words : sequence of str
        At least twice as many as classes, all different, each of one token.
    seed : int

    Returns
    -------
    list of str
    """
    generator = random.Random(seed)
    lengths = _lengths(size, generator)
    shared = _shared(lengths, size.tokens - size.rows)
    # The word behind a shared beginning comes once only, so that two names part there.
    turning, others = words[: size.classes], words[size.classes :]
    names: list[list[str]] = []
    for length, share, word in zip(lengths, shared, turning, strict=True):
        beginning = generator.choice(names)[:share] if share else []
        rest = generator.choices(others, k=length - share - 1)
        names.append([*beginning, word, *rest])
    return [" ".join(name) for name in names]


def _lengths(size: TaskSize, generator: random.Random) -> list[int]:
    """Tokens of each name, longest first: one as long as the longest, the rest spread at random."""
    most = size.longest - STOP_TOKENS
    lengths = [most] + [1] * (size.classes - 1)
    missing = size.tokens - STOP_TOKENS * size.classes - sum(lengths)
    while missing > 0:
        index = generator.randrange(1, size.classes)
        if lengths[index] < most:
            lengths[index] += 1
            missing -= 1
    return sorted(lengths, reverse=True)


def _shared(lengths: Sequence[int], total: int) -> list[int]:
    """Tokens that each name shares with an earlier one, ``total`` in all; the last token is always its own."""
    shared = [0] * len(lengths)
    while total > 0:
        room = [index for index in range(1, len(lengths)) if shared[index] < lengths[index] - 1]
        assert room, "more shared tokens than names have"
        for index in room[:total]:
            shared[index] += 1
        total -= min(total, len(room))
    return shared


def _one_token_words(tokenizer: TokenSource) -> Iterator[str]:
    """Made-up words of two syllables that the tokenizer's vocabulary knows whole."""
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    for letters in itertools.product(consonants, vowels, consonants, vowels):
        word = "".join(letters)
        if len(tokenizer.encode(word)) == 1:
            yield word
