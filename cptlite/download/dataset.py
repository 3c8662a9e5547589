"""A dataset under the data root: its archives fetched, unpacked, looked at, and only then put where it is read.

What is fetched lies in ``downloads/<dataset>`` under the data root until then, so that a killed call goes on; a file
that a user fetched by hand may be put there too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cptlite.datasets.drafts import Place
from cptlite.datasets.locate import expected_tree, find_place, missing, split_source
from cptlite.datasets.readers import READERS
from cptlite.datasets.specs import DatasetSpec, Layout
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS
from cptlite.download.fetch import WAITS, Fetch, part_of
from cptlite.download.sources import NESTED, RemoteFile, remote_files
from cptlite.download.unpack import unpack
from cptlite.errors import CptliteError, DataError
from cptlite.files import locked, naming_full_disk

__all__ = ["Download", "parts_of"]

SPARE = 256 * 2**20  # bytes of the disk that are left


@dataclass(frozen=True, kw_only=True)
class Download:
    """How a dataset is fetched.

    Attributes
    ----------
    spec : DatasetSpec
    root : Path
        The data root; made.
    split : bool
        Whether its split file is fetched too, where one is published.
    keep : bool
        Keep the archives once they are unpacked.
    lock : bool
        Keep other processes from fetching it; False only where the file system has no locks.
    on_progress : callable, optional
        Called with what is done, and all of it or None where that is not known: bytes while ``stage`` is "fetching",
        files while it is "unpacking".
    on_note : callable, optional
        Told of each step, in a line.
    waits : sequence of float
        Seconds before another try, see `cptlite.download.fetch.Fetch`.
    """

    spec: DatasetSpec
    root: Path
    split: bool = True
    keep: bool = False
    lock: bool = True
    on_progress: Callable[[int, int | None, str], None] = lambda done, total, stage: None
    on_note: Callable[[str], None] = lambda line: None
    waits: Sequence[float] = WAITS

    def run(self) -> Path:
        """Fetch what is not there yet.

        Returns
        -------
        Path
            The dataset's folder.

        Raises
        ------
        DataError
            It is to be fetched by hand, and the message says from which page, or a part of it is; the checksum is
            another one; the archive is damaged or not the one expected; something else lies where it belongs.
        CptliteError
            The connection broke: what came is kept. Another process is at it, or the disk has too little room.
        """
        found = find_place(self.spec, self.root)
        if found is None and (self.spec.download is None or self.spec.torchvision is None):
            raise DataError(self._by_hand())
        if found is not None and not self._wants_split(found):
            return found.folder
        with naming_full_disk(self.root), self._alone():
            if find_place(self.spec, self.root) is None:
                self._fetch_images()
            found = find_place(self.spec, self.root)
            assert found is not None
            if self._wants_split(found):
                self._fetch_split(found)
        return found.folder

    @property
    def _folder(self) -> Path:
        return self.root / "downloads" / self.spec.name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the one process at work; folders that were made for it go if they are empty."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = self._folder.with_name(f".{self.spec.name}.lock")
        try:
            with locked(lock, self._folder) if self.lock else nullcontext():
                yield
        finally:
            for folder in (self._folder, self._folder.parent):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _wants_split(self, found: Place) -> bool:
        """Whether the images are there and the published split file is not."""
        return self.split and self.spec.split_url is not None and found.layout is self.spec.torchvision

    def _fetch_images(self) -> None:
        """Fetch and unpack all archives, then move what they hold to its place."""
        assert self.spec.download is not None
        files = remote_files(self.spec.download)
        for file in files:
            self._fetch(file)
        unpacked = self._folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        self.on_note(f"unpacking {', '.join(file.name for file in files)}")
        for file in files:
            target = unpacked / file.folder
            target.mkdir(parents=True, exist_ok=True)
            if file.archive:
                self._unpack(self._folder / file.name, target)
            else:
                shutil.copyfile(self._folder / file.name, target / file.name)
        self._unpack_nested(unpacked)
        if find_place(self.spec, unpacked) is None:
            absent = ", ".join(shown(path.relative_to(unpacked)) for path in missing(self.spec, unpacked))
            raise DataError(f"{self._folder}: wanted archives of {self.spec.name}, {absent} are not in them; delete it")
        os.sync()  # else what is named as whole might be empty after the power was cut
        self._move(unpacked)
        shutil.rmtree(unpacked)
        for file in files if not self.keep else ():
            (self._folder / file.name).unlink()

    def _fetch(self, file: RemoteFile) -> None:
        target = self._folder / file.name
        if not target.exists():
            checked = "" if file.md5 else "; no checksum of it is published"
            self.on_note(f"fetching {file.url}{checked}")
        unpacked = 2 if file.archive else 1  # the archive, and about as much again beside it
        try:
            Fetch(
                url=file.url,
                target=target,
                md5=file.md5,
                check_space=lambda coming, total: self._check_space(coming + (unpacked - 1) * total),
                on_progress=lambda done, total: self.on_progress(done, total, "fetching"),
                on_note=self.on_note,
                waits=self.waits,
            ).run()
        except DataError as error:
            page = f", which {self.spec.page} leads to," if self.spec.page else ""
            raise DataError(
                f"{error}\nor fetch {file.name}{page} with a browser, put it at {shown(target)} and run the same "
                "command again"
            ) from None

    def _check_space(self, wanted: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < wanted + SPARE:
            raise CptliteError(
                f"fetching and unpacking {self.spec.name} wants {(wanted + SPARE) / 2**30:.1f} GiB, {shown(self.root)} "
                f"has {free / 2**30:.1f} GiB free: free some, or give another folder with --root"
            )

    def _unpack(self, archive: Path, folder: Path) -> None:
        left_out = unpack(archive, folder, lambda done, total: self.on_progress(done, total, "unpacking"))
        if left_out:
            self.on_note(f"left out {left_out} links and the like of {shown(archive.name)}")

    def _unpack_nested(self, unpacked: Path) -> None:
        """Unpack archives that lay in the archive, into the folder beside theirs."""
        nested = NESTED.get(self.spec.download or "")
        if nested is None or self.spec.torchvision is None:
            return
        folder = unpacked / self.spec.torchvision.directory
        for archive in sorted((folder / nested).glob("*.gz")):
            self._unpack(archive, folder)
        shutil.rmtree(folder / nested, ignore_errors=True)

    def _move(self, unpacked: Path) -> None:
        """Move what was unpacked to its place: the images last, since a dataset without them is not there yet."""
        assert self.spec.torchvision is not None
        own = PurePosixPath(self.spec.torchvision.directory)
        images = self.spec.torchvision.images
        source, target = unpacked / own, self.root / own
        names = sorted(os.listdir(source), key=lambda name: (name == images, name))
        taken = [target / name for name in names if (target / name).exists()]
        if taken:
            raise DataError(
                f"{self.spec.name}: wanted to put {shown(taken[0].name)} into {shown(target)}, where there is one; "
                "move it away, and run the same command again"
            )
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            return
        for name in names:
            (source / name).rename(target / name)

    def _fetch_split(self, found: Place) -> None:
        """Fetch the split file and put it beside the images, if it is one of the dataset's."""
        name = self.spec.layout.split
        assert name is not None and self.spec.split_url is not None
        target, fetched = found.folder / name, self._folder / name
        self.on_note(f"fetching {name} from {self.spec.split_url}")
        try:
            Fetch(url=self.spec.split_url, target=fetched, on_note=self.on_note, waits=self.waits).run()
            self._check_split(found, fetched)
        except CptliteError as error:
            fetched.unlink(missing_ok=True)
            raise DataError(
                f"{self.spec.name} is in {shown(found.folder)}, without the split file that others use: {error}\n"
                f"get {name} from {self.spec.page} and put it at {shown(target)}; until then its rows are split by "
                f"{split_source(found)}, which --no-split is content with"
            ) from None
        fetched.replace(target)

    def _check_split(self, found: Place, path: Path) -> None:
        """Refuse a file that is no split of the dataset: there is no checksum of it."""
        layout = Layout(directory=".", images=found.layout.images, reader="split_file", split=path.name)
        draft = READERS["split_file"].read(Place(name=self.spec.name, folder=path.parent, layout=layout))
        counts = tuple(len(draft.rows[split]) for split in SPLITS)
        if self.spec.counts is not None and counts != self.spec.counts:
            raise DataError(f"{shown(path.name)}: wanted {self.spec.counts} rows, got {counts}")

    def _by_hand(self) -> str:
        """Say where a dataset is to be fetched from by hand, and where it belongs."""
        where = f"get it from {self.spec.page}" if self.spec.page else "get it where you know it to be"
        lines = [f"dataset {self.spec.name!r} is not one that can be fetched: {where} and place it as"]
        lines += [f"  {line}" for line in expected_tree(self.spec, str(self.root)).splitlines()]
        lines += [f"its split file is at {self.spec.split_url}"] if self.spec.split_url else []
        return "\n".join([*lines, *([self.spec.note] if self.spec.note else [])])


def parts_of(spec: DatasetSpec, root: Path) -> list[Path]:
    """Beginnings of files that an interrupted call left."""
    folder = root / "downloads" / spec.name
    return sorted(path for path in folder.glob(part_of(Path("*")).name) if path.is_file())
