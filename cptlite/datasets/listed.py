r"""Image paths as lists write them, and the files on disk that they mean.

Lists are written on other systems: Windows separates folders with ``\``, macOS spells an accent as two code points,
cameras write ``.JPG``, and scripts write absolute paths.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

from cptlite.datasets.text_files import check_utf8, shown
from cptlite.errors import DataError

__all__ = ["DiskNames", "check_path", "listed_path", "path_key"]


def listed_path(text: str, images: Path) -> str:
    """Return a path of a list with forward slashes and relative to the image folder, where it lies in there.

    Parameters
    ----------
    text : str
        As the list has it.
    images : Path
        Folder that the paths of the list are relative to.

    Returns
    -------
    str
        A path outside comes back as it is, for `check_path` to refuse.
    """
    path = text.strip()
    if "\\" in path:
        windows = PureWindowsPath(path)
        path = path.replace("\\", "/")
        if not windows.drive and path.startswith("/"):  # "\ash\1.png" is relative to a drive, not absolute
            path = path.lstrip("/")
    if not PurePosixPath(path).is_absolute() and not PureWindowsPath(path).drive:
        return path
    for root in (os.path.abspath(images), os.path.realpath(images)):
        folder = root.replace("\\", "/").rstrip("/") + "/"
        if path.startswith(folder):
            return path.removeprefix(folder)
    return path


def path_key(path: str) -> str:
    """Return what makes two paths of a list the same: ``./a/1.png`` is ``a/1.png``, in either spelling of accents."""
    return posixpath.normpath(unicodedata.normalize("NFC", path))


def check_path(name: str, path: str, source: Path) -> None:
    """Refuse a path that is empty, absolute or climbs out of the image folder.

    Raises
    ------
    DataError
        For such a path; the message names the dataset ``name`` and the ``source``.
    """
    check_utf8(path, source)
    if path and path[0] not in "/\\~" and ".." not in path and ":" not in path and "\0" not in path:
        return
    pure, windows = PurePosixPath(path), PureWindowsPath(path)
    outside = ".." in pure.parts or ".." in windows.parts or "\0" in path
    if not path or outside or pure.is_absolute() or windows.drive or windows.root:
        raise DataError(
            f"dataset {name!r}: wanted image paths inside its folder, got {path!r} in {shown(source)}; "
            "write paths relative to the image folder, without '..'"
        )


class DiskNames:
    """The names of files below a folder, read once a folder; says how the disk spells a path of a list.

    Parameters
    ----------
    root : Path
        Folder the paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, dict[str, str]] = {}
        self._folders: dict[str, str] = {}

    def find(self, path: str) -> str | None:
        """Return the path as the disk spells it, itself where it is there as written, or None where it is not there.

        Another spelling of accents and another case of the suffix are found, if just one file is meant.
        """
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._spelled(folder)
        spelled = self._folders[folder]
        found = self._listing(spelled).get(name) or self._listing(spelled).get(_name_key(name))
        if found == name and spelled == folder:
            return path
        if os.path.lexists(self.root / path):  # a disk that takes every spelling, or "./" in the path
            return path
        return f"{spelled}/{found}".lstrip("/") if found else None

    def _spelled(self, folder: str) -> str:
        spelled = ""
        for part in filter(None, folder.split("/")):
            names = self._listing(spelled)
            spelled = f"{spelled}/{names.get(part) or names.get(_name_key(part)) or part}".lstrip("/")
        return spelled

    def _listing(self, folder: str) -> dict[str, str]:
        """Names in a folder by themselves and by `_name_key`, where that means just one of them."""
        if folder not in self._names:
            try:
                names = os.listdir(self.root / folder)
            except OSError:
                names = []
            keyed: dict[str, str] = {}
            for name in names:
                key = _name_key(name)
                keyed[key] = name if key not in keyed else ""
            self._names[folder] = keyed | {name: name for name in names}
        return self._names[folder]


def _name_key(name: str) -> str:
    """Return what counts of a file's name: neither the spelling of accents nor the case of the suffix."""
    stem, suffix = posixpath.splitext(name if name.isascii() else unicodedata.normalize("NFC", name))
    return stem + suffix.lower()
