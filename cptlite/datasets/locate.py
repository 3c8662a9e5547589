"""Finding a dataset's files under the data root and reading them.

A dataset may lie in several layouts: its own, its own with the original SoftCPT's split file, or
torchvision's. The first one whose files are all there is read.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cptlite.datasets.drafts import Place, build_dataset
from cptlite.datasets.readers import READERS
from cptlite.datasets.specs import DatasetSpec, Layout
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import Dataset
from cptlite.errors import DataError

__all__ = ["expected_tree", "find_dataset", "find_place", "missing", "read_dataset", "split_source"]

ORIGINAL_SPLIT = "split_dk_*.json"
INDENT = "    "


def read_dataset(spec: DatasetSpec, root: Path) -> Dataset:
    """Read a dataset's tasks and rows; no image is opened.

    Parameters
    ----------
    spec : DatasetSpec
        From `Catalog.resolve`.
    root : Path
        The data root.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        When files are missing (the message lists the paths looked for) or do not fit.
    """
    place = find_place(spec, root)
    if place is None:
        raise DataError(_missing_message(spec, root))
    try:
        dataset = build_dataset(spec, place, READERS[place.layout.reader].read(place))
    except OSError as error:
        raise DataError(
            f"dataset {spec.name!r}: wanted to read {shown(error.filename)}, got {error.strerror or error}; "
            "check the file and its permissions"
        ) from error
    read = os.path.realpath(place.folder)
    others = [word for word in _own_folders(spec) if not f"{read}/".startswith(f"{os.path.realpath(word)}/")]
    notes = (f"read from {shown(place.folder)}; for the folder {word!r} here give ./{word}" for word in others)
    return replace(dataset, notes=(*dataset.notes, *notes))


def find_dataset(spec: DatasetSpec, root: Path) -> bool:
    """Whether every file and folder the dataset needs is there; images are not looked at."""
    return find_place(spec, root) is not None


def find_place(spec: DatasetSpec, root: Path) -> Place | None:
    """Return the first layout whose files are all there, or None."""
    return next((place for place in _places(spec, root) if not _absent(place)), None)


def missing(spec: DatasetSpec, root: Path) -> list[Path]:
    """Return the paths looked for and not found; empty when the dataset is found."""
    if find_dataset(spec, root):
        return []
    paths = (path for place in _own_places(spec, root) for path in _absent(place))
    return list(dict.fromkeys(paths))


def split_source(place: Place) -> str:
    """Say in words where the train, val and test rows of a found dataset come from."""
    if place.layout.options.get("mixed"):
        return "50/20/30 of each class in each of the source's own folders, joined"
    if place.layout.reader == "split_file":
        return f"{READERS['split_file'].how} {shown(place.split_file.name)}"
    return READERS[place.layout.reader].how


def expected_tree(spec: DatasetSpec, root: str = "<root>") -> str:
    """Draw the files and folders of the dataset's layouts, one line each, with what they are.

    Parameters
    ----------
    spec : DatasetSpec
        The dataset.
    root : str
        How to write the data root.

    Returns
    -------
    str
        Several lines without a final newline.
    """
    lines = _tree(spec.layout, root)
    if _takes_original(spec.layout):
        role = "wins" if _original_wins(spec.layout) else "stands in"
        words = f"the original SoftCPT's split file {role} when present"
        lines.append(f"{INDENT}{ORIGINAL_SPLIT:<{_width(spec.layout)}}  {words}")
    if spec.torchvision is not None:
        beside = f"; {spec.layout.split} beside it wins" if spec.layout.split else ""
        lines += [f"or, as torchvision lays it out{beside}:", *_tree(spec.torchvision, root)]
    return "\n".join(lines)


def _original_wins(layout: Layout) -> bool:
    """Whether the original's split file is preferred: where the source has no split of its own."""
    return layout.reader in ("class_folders", "task_folders") or bool(layout.options.get("mixed"))


def _takes_original(layout: Layout) -> bool:
    """Whether the original's split file is read at all: not where it would test on trained images."""
    return _original_wins(layout) or layout.reader == "split_file"


def _layouts(spec: DatasetSpec) -> list[Layout]:
    """Every layout the dataset may lie in, the preferred first."""
    own = [spec.layout]
    if _takes_original(spec.layout):
        original = replace(spec.layout, reader="split_file", split=ORIGINAL_SPLIT, options={})
        own.insert(0 if _original_wins(spec.layout) else 1, original)
    if spec.torchvision is not None:
        own += [*_split_beside_torchvision(spec.layout, spec.torchvision), spec.torchvision]
    return own


def _split_beside_torchvision(own: Layout, torchvision: Layout) -> Iterator[Layout]:
    """Layouts of torchvision's images with the published split file beside or above them."""
    if own.split is None:
        return
    above = map(str, PurePosixPath(torchvision.directory).parents)
    for directory in (torchvision.directory, *above, own.directory):
        split = posixpath.relpath(f"{directory}/{own.split}", torchvision.directory)
        yield Layout(
            directory=torchvision.directory,
            images=torchvision.images,
            reader="split_file",
            split=split,
        )


def _places(spec: DatasetSpec, root: Path) -> Iterator[Place]:
    """Every layout in every folder it may lie in: beside the manifest, then under the root."""
    for base in _bases(spec, root):
        for layout in _layouts(spec):
            yield _place(spec, base, layout)


def _own_places(spec: DatasetSpec, root: Path) -> Iterator[Place]:
    """Yield the places worth naming to a user who lacks the dataset."""
    for base in _bases(spec, root):
        yield _place(spec, base, spec.layout)
    if spec.torchvision is not None:
        yield _place(spec, root, spec.torchvision)


def _bases(spec: DatasetSpec, root: Path) -> list[Path]:
    return [root] if spec.base is None else [spec.base, root]


def _place(spec: DatasetSpec, base: Path, layout: Layout) -> Place:
    return Place(name=spec.name, folder=base / os.path.expanduser(layout.directory), layout=layout)


def _required(place: Place) -> list[Path]:
    """Files and folders a layout cannot do without."""
    return [
        place.split_file if path == "{split}" else Path(_fill(f"{place.folder}/{path}", place.layout))
        for path, _ in READERS[place.layout.reader].files
        if "<" not in path and "*" not in path
    ]


def _absent(place: Place) -> list[Path]:
    return [path for path in _required(place) if not os.path.exists(path)]


def _fill(path: str, layout: Layout) -> str:
    """Put a layout's names into a path of a reader's table."""
    images = "" if layout.images == "." else f"{layout.images}/"
    return path.replace("{images}/", images).replace("{split}", layout.split or "")


def _shown(layout: Layout) -> list[tuple[str, str]]:
    """(path, words) of the lines of a tree."""
    files = [(_fill(path, layout) or ".", words) for path, words in READERS[layout.reader].files]
    return [(path, words) for path, words in files if words]


def _width(layout: Layout) -> int:
    return max(len(path) for path, _ in _shown(layout))


def _tree(layout: Layout, root: str) -> list[str]:
    """Lines of one layout's tree."""
    width = _width(layout)
    folder = PurePosixPath(root) / layout.directory
    return [
        f"{folder}/",
        *(f"{INDENT}{path:<{width}}  {words}" for path, words in _shown(layout)),
    ]


def _own_folders(spec: DatasetSpec) -> list[str]:
    """Folders here with a name of a catalogue's dataset, which the name alone does not mean."""
    if spec.base is not None or Path(spec.layout.directory).is_absolute():
        return []
    return [word for word in (spec.name, *spec.aliases) if os.path.isdir(word)]


def _missing_message(spec: DatasetSpec, root: Path) -> str:
    """Say which paths were looked for and which of them are not there."""
    folders = " or ".join(map(shown, _bases(spec, root)))
    got = "some are missing" if os.path.exists(root) else f"{shown(root)} does not exist"
    lines = [f"dataset {spec.name!r}: wanted its files under {folders}, {got}"]
    for place in _own_places(spec, root):
        lines += ["or, as torchvision lays it out:"] if place.layout is spec.torchvision else []
        lines += [f"  {'found  ' if os.path.exists(path) else 'missing'}  {shown(path)}" for path in _required(place)]
    lines += [spec.note] if spec.note else []
    lines += [f"the folder {word!r} here is taken with --dataset ./{word}" for word in _own_folders(spec)]
    fetched = f", or fetch them with `cptlite download {spec.name}`" if spec.download else ""
    lines.append(
        f"place them there{fetched}, or give another data root with --root or CPTLITE_DATA; "
        f"`cptlite datasets {spec.name}` shows the whole tree"
    )
    return "\n".join(lines)
