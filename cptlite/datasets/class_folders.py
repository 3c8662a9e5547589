"""Reading images sorted into one folder per class, with or without own train, val and test folders."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cptlite.datasets.checks import counted
from cptlite.datasets.drafts import Draft, Place, classes_to_draft
from cptlite.datasets.partition import DEFAULT_SEED, partition, settle_notes, settle_splits
from cptlite.datasets.text_files import check_utf8, shown
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "SPLIT_WORDS",
    "LeftOut",
    "class_images",
    "images_in",
    "read_class_folders",
    "read_folders",
    "read_split_folders",
    "subfolders",
]

IMAGE_SUFFIXES = frozenset(".bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r"))  # which file managers leave, and nobody misses


@dataclass
class LeftOut:
    """What class folders hold that is no image of a class: files, and folders within them."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def warnings(self) -> tuple[str, ...]:
        """Count both, in a sentence each."""
        files = counted(self.files, "file", "files") + f": images end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        folders = counted(self.folders, "folder", "folders") + " within class folders, or empty"
        return tuple(f"left out: {words}" for words, found in ((files, self.files), (folders, self.folders)) if found)


def subfolders(folder: Path, exclude: Collection[str] = ()) -> list[str]:
    """Return the names of the visible folders in ``folder``, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith((".", "__")) and entry.name not in exclude and entry.is_dir()
        )
    for name in names:
        check_utf8(name, folder)
    return names


def images_in(folder: Path, prefix: str, left_out: LeftOut | None = None) -> list[str]:
    """Return the images directly in ``folder`` as ``prefix`` + name, sorted; ``left_out`` gathers the rest."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                names.append(entry.name)
            elif left_out is not None and entry.name.lower() not in SYSTEM_FILES:
                (left_out.folders if entry.is_dir() else left_out.files).append(prefix + entry.name)
    for name in names:
        check_utf8(name, folder)
    return [prefix + name for name in sorted(names)]


def class_images(
    images: Path, within: str = "", exclude: Collection[str] = (), left_out: LeftOut | None = None
) -> dict[str, list[str]]:
    """List the images of each class folder.

    Parameters
    ----------
    images : Path
        Folder the paths are relative to.
    within : str
        The class folders' parent, relative to ``images``; empty for ``images`` itself.
    exclude : collection of str
        Folders that are no classes.
    left_out : LeftOut, optional
        Gathers what is no image of a class, images beside the class folders too.

    Returns
    -------
    dict of str to list of str
        Paths by class, both sorted; a folder without images has an empty list.

    Raises
    ------
    DataError
        When there are no class folders.
    """
    parent = images / within
    prefix = f"{within}/" if within else ""
    names = subfolders(parent, exclude)
    lone = images_in(parent, prefix)
    if not names:
        got = f"{len(lone)} images directly in it" if lone else "an empty folder"
        raise DataError(
            f"{shown(parent)}: wanted one folder of images per class, got {got}; sort the images into "
            "folders named after their classes"
        )
    if left_out is not None:
        left_out.files += lone
    return {name: images_in(parent / name, f"{prefix}{name}/", left_out) for name in names}


def read_class_folders(place: Place) -> Draft:
    """Read class folders and split each class 50/20/30.

    Raises
    ------
    DataError
        No class folders, or one without images.
    """
    options, left_out = place.layout.options, LeftOut()
    classes = class_images(place.images, "", options.get("exclude", ()), left_out)
    for name, paths in classes.items():
        if not paths:
            raise _empty_class(place.images / name)
    parts = partition(classes, options.get("seed", DEFAULT_SEED))
    return replace(classes_to_draft(place.images, list(classes), parts), warnings=left_out.warnings())


def read_split_folders(place: Place) -> Draft:
    """Read class folders under the source's own train, validation and test folders.

    Without a validation folder a fifth of each class's training images is held out for it; with a
    validation folder and no test folder, that one is the test split.

    Further folders beside them are left out.

    Raises
    ------
    DataError
        No training or no test images, a class that is tested but not trained, two folders for one split.
    """
    options, left_out = place.layout.options, LeftOut()
    seed, exclude = options.get("seed", DEFAULT_SEED), options.get("exclude", ())
    names = subfolders(place.images, exclude)
    folders = _split_folders(place, names)
    parts = {split: class_images(place.images, name, exclude, left_out) for split, name in folders.items()}
    others = [name for name in names if name not in folders.values()]
    beside = (
        [f"left out beside {', '.join(folders.values())}: {counted(others, 'folder', 'folders')}"] if others else []
    )
    if options.get("mixed"):
        draft = _mixed(place, parts, seed)
    else:
        for name, paths in parts.get("train", {}).items():
            if not paths:
                raise _empty_class(place.images / folders["train"] / name)
        parts = _same_spelling(parts)
        left_out.folders += [
            f"{folders[split]}/{name}"
            for split, classes in parts.items()
            for name, paths in classes.items()
            if not paths and name not in parts.get("train", {})
        ]
        settled = settle_splits(parts, place.images, seed)
        draft = replace(classes_to_draft(place.images, _names(settled), settled), notes=settle_notes(parts))
    return replace(draft, warnings=(*beside, *left_out.warnings()))


def _split_folders(place: Place, names: Collection[str]) -> dict[str, str]:
    """Folders by the split they hold."""
    folders: dict[str, str] = {}
    for name in names:
        split = SPLIT_WORDS.get(name.lower())
        if split is None:
            continue
        if split in folders:
            raise DataError(
                f"{shown(place.images)}: wanted one folder of the {split} split, got {folders[split]!r} and {name!r}; "
                "move one away, or their images together"
            )
        folders[split] = name
    return folders


def read_folders(place: Place) -> Draft:
    """Read a user's folder: own train, val and test folders if it has them, else classes.

    Classes may be called "train" too: beside other folders, the folders of a training and a test or validation split
    must have folders themselves.
    """
    names = subfolders(place.images)
    own = [name for name in names if name.lower() in SPLIT_WORDS]
    splits = {SPLIT_WORDS[name.lower()] for name in own}
    alone = len(names) > 1 and len(own) == len(names)
    if alone or ("train" in splits and len(splits) > 1 and all(subfolders(place.images / name) for name in own)):
        return read_split_folders(place)
    return read_class_folders(place)


def _mixed(place: Place, parts: Mapping[str, dict[str, list[str]]], seed: int) -> Draft:
    """Split each of the source's folders and join the parts: the original's way."""
    joined: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for classes in parts.values():
        for split, by_class in partition(classes, seed).items():
            for name, paths in by_class.items():
                joined[split].setdefault(name, []).extend(paths)
    return classes_to_draft(place.images, _names(parts), joined)


def _same_spelling(parts: Mapping[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """Call a class alike in every split where only the spelling of an accent differs: the first split decides."""
    spelled: dict[str, str] = {}
    renamed: dict[str, dict[str, list[str]]] = {}
    for split in filter(parts.get, SPLITS):
        here = renamed.setdefault(split, {})
        for name, paths in parts[split].items():
            other = spelled.setdefault(unicodedata.normalize("NFC", name), name)
            here[name if other in here else other] = paths
    return renamed


def _names(parts: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """Every class of any split, sorted."""
    return sorted({name for by_class in parts.values() for name in by_class})


def _empty_class(folder: Path) -> DataError:
    """Error for a class folder without images."""
    hint = f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
    if subfolders(folder):
        hint = "it has folders of its own: give the folder whose subfolders are the classes"
    return DataError(f"{shown(folder)}: wanted images of the class {folder.name!r}, found none; {hint}")
