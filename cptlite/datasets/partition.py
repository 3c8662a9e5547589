"""Splitting what came without a split: per class, seeded, the same on every machine.

The sizes are CoOp's: 50 % training, 20 % validation and the rest test, rounded half to even.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = ["DEFAULT_SEED", "hold_out", "part_sizes", "partition", "settle_notes", "settle_splits"]

DEFAULT_SEED = 0


def part_sizes(count: int) -> tuple[int, int, int]:
    """Return how many of a class's images train, validate and test.

    Parameters
    ----------
    count : int
        Images of the class, at least 1.

    Returns
    -------
    train, val, test : int
        Together ``count``. A class of two or more images has at least one to train on and one to
        test on, at the cost of validation first.
    """
    assert count >= 1
    if count == 1:
        return 1, 0, 0
    train, val = round(count / 2), round(count / 5)
    if train + val == count:
        val -= 1 if val else 0
    return train, val, count - train - val


def partition(classes: Mapping[str, Sequence[str]], seed: int = DEFAULT_SEED) -> dict[str, dict[str, list[str]]]:
    """Split the images of each class 50/20/30 into train, val and test.

    Parameters
    ----------
    classes : mapping of str to sequence of str
        Image paths by class.
    seed : int
        Another seed gives another split.

    Returns
    -------
    dict of str to dict of str to list of str
        By split, then by class, the paths in sorted order.

    Notes
    -----
    Each class is shuffled by its own generator, seeded with the seed and the class's name, after
    sorting: neither the order in which a file system lists files nor the other classes matter.
    """
    parts: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for name, paths in classes.items():
        shuffled = _shuffled(name, paths, seed)
        train, val, _ = part_sizes(len(shuffled)) if shuffled else (0, 0, 0)
        parts["train"][name] = sorted(shuffled[:train])
        parts["val"][name] = sorted(shuffled[train : train + val])
        parts["test"][name] = sorted(shuffled[train + val :])
    return parts


def hold_out(
    classes: Mapping[str, Sequence[str]], seed: int = DEFAULT_SEED
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Hold a fifth of each class's training images out for validation.

    Parameters
    ----------
    classes : mapping of str to sequence of str
        Training image paths by class.
    seed : int
        Another seed holds out others.

    Returns
    -------
    train, val : dict of str to list of str
        Paths by class in sorted order. A class of two or more images keeps one and gives one.
    """
    train, val = {}, {}
    for name, paths in classes.items():
        shuffled = _shuffled(name, paths, seed)
        held = max(1, round(len(shuffled) / 5)) if len(shuffled) > 1 else 0
        val[name], train[name] = sorted(shuffled[:held]), sorted(shuffled[held:])
    return train, val


def settle_splits(
    parts: Mapping[str, Mapping[str, Sequence[str]]], source: Path, seed: int = DEFAULT_SEED
) -> dict[str, dict[str, list[str]]]:
    """Complete a split somebody else made, so that there is something to choose on and to test on.

    Parameters
    ----------
    parts : mapping of str to mapping of str to sequence of str
        By split, then by class, paths. Missing or without paths: the split is not there.
    source : Path
        Where the split comes from, for messages.
    seed : int
        Another seed holds others out.

    Returns
    -------
    dict of str to dict of str to list of str
        As `partition` returns. Without a test split the validation split is the test split; without
        a validation split a fifth of each class's training images is held out for it.

    Raises
    ------
    DataError
        When there is neither a test nor a validation split, or a class in them is not trained.
    """
    there: dict[str, dict[str, list[str]]] = {
        split: {name: list(paths) for name, paths in by_class.items() if paths} for split, by_class in parts.items()
    }
    there = {split: by_class for split, by_class in there.items() if by_class}
    if "test" not in there and "val" in there:
        there["test"] = there.pop("val")
    if there and "test" not in there:
        raise DataError(
            f"{shown(source)}: wanted images to test on, got only {', '.join(there)}; "
            "add a test split, or leave all splits out for one of 50/20/30"
        )
    if "train" not in there:
        return there
    extra = sorted({name for by_class in there.values() for name in by_class} - set(there["train"]))
    if extra:
        raise DataError(
            f"{shown(source)}: wanted training images of every class, found none of {extra[0]!r}; "
            "add some or remove the class"
        )
    if "val" not in there:
        there["train"], there["val"] = hold_out(there["train"], seed)
    return there


def settle_notes(parts: Mapping[str, Mapping[str, Sequence[str]]]) -> tuple[str, ...]:
    """Say what `settle_splits` makes of the splits that are not there, a sentence each."""
    there = {split for split, by_class in parts.items() if any(by_class.values())}
    notes = []
    if "test" not in there and "val" in there:
        there = (there - {"val"}) | {"test"}
        notes.append("no test split: the validation images are it")
    if {"train", "test"} <= there and "val" not in there:
        notes.append("no validation split: a fifth of each class's training images is held out for it")
    return tuple(notes)


def _shuffled(name: str, paths: Sequence[str], seed: int) -> list[str]:
    """Shuffle the sorted paths of one class."""
    # File systems spell accents as one or two code points; neither may decide the split.
    shuffled = sorted(paths, key=lambda path: unicodedata.normalize("NFC", path))
    random.Random(f"{seed}/{unicodedata.normalize('NFC', name)}").shuffle(shuffled)
    return shuffled
