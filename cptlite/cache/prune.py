"""What passes that were stopped left in a cache folder: parts, locks that nobody holds, temporary files."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cptlite.cache.shards import refuse_shards
from cptlite.cache.write import writing

__all__ = ["Leftover", "find_leftovers", "remove_leftovers"]

NAME = re.compile(
    r"\.(?P<file>.+\.h5)\.(?:(?P<parts>parts-[0-9a-f]{16})|(?P<lock>(?:shard-[0-9]+\.)?lock)|[0-9]+\.tmp)"
)


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One thing beside a cache file.

    Attributes
    ----------
    path, target : Path
        Where it lies, and the cache file it was made for.
    kind : str
        ``parts``, ``lock`` or ``temporary``.
    mib : float
    """

    path: Path
    target: Path
    kind: str
    mib: float


def find_leftovers(cache_dir: Path) -> list[Leftover]:
    """Find them, of passes at work too, by backbone folder, then by name; links are left out."""
    found = []
    for path in sorted(Path(cache_dir).glob("*/.*")):
        match = NAME.fullmatch(path.name)
        if match is None or path.is_symlink() or path.is_dir() is not bool(match["parts"]):
            continue
        kind = "parts" if match["parts"] else "lock" if match["lock"] else "temporary"
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        mib = sum(each.lstat().st_size for each in files) / 2**20
        found.append(Leftover(path=path, target=path.with_name(match["file"]), kind=kind, mib=mib))
    return found


def remove_leftovers(target: Path, leftovers: list[Leftover]) -> None:
    """Remove what lies beside one cache file, which itself stays.

    Raises
    ------
    CptliteError
        A process is writing the file or a shard of it, or the file system has no locks.
    DataError
        The folder cannot be written to.
    """
    with writing(target):  # the lock and temporary files go with it
        refuse_shards(target)  # they hold the file only as they begin and end; locks of dead ones go here
        for each in leftovers:
            if each.kind == "parts" and each.target == target:
                shutil.rmtree(each.path)
