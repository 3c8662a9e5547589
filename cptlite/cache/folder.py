"""What lies in a cache folder, and its caches opened for a backbone: each file once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from cptlite.cache.format import cache_path
from cptlite.cache.parts import PartStore, find_stores
from cptlite.cache.read import FeatureCache, open_cache, reading
from cptlite.datasets.types import SPLITS
from cptlite.errors import DataError

if TYPE_CHECKING:
    from cptlite.backbones import Backbone

__all__ = ["CacheFolder", "CacheSummary", "cache_files", "list_caches", "open_caches"]

MAX_OPEN = 64  # systems let a process open 256 files or more


@dataclass(frozen=True, kw_only=True)
class CacheSummary:
    """One line of ``cptlite caches``.

    Attributes
    ----------
    path : Path
        The cache file; of an unfinished pass the folder that holds its parts.
    dataset, backbone, dtype : str
        Empty where the file cannot be read.
    rows : mapping of str to int
        By split; of an unfinished pass those finished so far.
    views : int
    local : int
        Patch features M of an image; 0 without.
    pre_projection : int
        Width of the features before the projection; 0 without.
    bad_images : int
        Images left out because they could not be read.
    mib : float
        Size on disk in MiB.
    complete : bool
        False for an unfinished pass, and for a file that cannot be used.
    problem : str
        Why the file cannot be used; empty if it can.
    """

    path: Path
    dataset: str = ""
    backbone: str = ""
    dtype: str = ""
    rows: Mapping[str, int]
    views: int = 0
    local: int = 0
    pre_projection: int = 0
    bad_images: int = 0
    mib: float
    complete: bool = True
    problem: str = ""


class FeaturesOf(Protocol):
    """What says whose features are wanted: a backbone, or the facts of one."""

    @property
    def name(self) -> str:
        """The name that loads it."""

    @property
    def slug(self) -> str:
        """Name of the folder of its caches."""

    @property
    def weights_sha256(self) -> str:
        """Digest of its weights."""


class CacheFolder:
    """The caches in a folder, for a caller that first looks and then reads; a context manager that closes them.

    A file that was opened to describe it stays open for `open`, so that each is opened once.

    Parameters
    ----------
    path : Path or str
        May be missing.
    backbone_slug : str, optional
        The one backbone whose caches matter; all by default.
    """

    def __init__(self, path: Path | str, backbone_slug: str | None = None) -> None:
        self.path = Path(path)
        self.backbone_slug = backbone_slug
        self._caches: dict[Path, FeatureCache] = {}

    @cached_property
    def summaries(self) -> list[CacheSummary]:
        """Describe every cache file, then every unfinished pass, each by backbone folder, then by file.

        Files that cannot be used are listed with the problem.
        """
        files = [self._describe_file(path) for path in cache_files(self.path, self.backbone_slug)]
        return files + [_describe_parts(store) for store in find_stores(self.path, self.backbone_slug)]

    def open(self, backbone: FeaturesOf, datasets: Sequence[str] | None = None) -> list[FeatureCache]:
        """Open caches of a backbone and close the others.

        Parameters
        ----------
        backbone : Backbone, or facts of one
            Whose weights the features must be of.
        datasets : sequence of str, optional
            Names, in task order; by default all that are cached for the backbone, by name, as `cptlite train` has it.

        Returns
        -------
        list of FeatureCache
            Closed with the folder.

        Raises
        ------
        DataError
            A dataset is not cached, or its cache is not finished, damaged or of other weights.
        """
        names = self._complete_datasets(backbone) if datasets is None else datasets
        paths = [cache_path(self.path, backbone.slug, name) for name in names]
        for path in self._caches.keys() - set(paths):
            self._caches.pop(path).close()
        for path, name in zip(paths, names, strict=True):
            if path not in self._caches:
                self._caches[path] = open_cache(path)
            self._caches[path].check({"dataset": name, "weights_sha256": backbone.weights_sha256})
        return [self._caches[path] for path in paths]

    def close(self) -> None:
        """Close every file."""
        while self._caches:
            self._caches.popitem()[1].close()

    def __enter__(self) -> CacheFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _describe_file(self, path: Path) -> CacheSummary:
        mib = _mib(path)
        try:
            with ExitStack() as stack:
                cache = stack.enter_context(open_cache(path))
                with reading(path):
                    summary = CacheSummary(
                        path=path,
                        dataset=cache.fingerprint.dataset,
                        backbone=cache.fingerprint.backbone,
                        dtype=cache.fingerprint.dtype,
                        rows={split: cache.num_rows(split) for split in SPLITS},
                        views=cache.fingerprint.views,
                        local=cache.fingerprint.local,
                        pre_projection=cache.fingerprint.pre_projection,
                        bad_images=cache.attributes["bad_images"],
                        mib=mib,
                    )
                if len(self._caches) < MAX_OPEN:
                    self._caches[path] = cache
                    stack.pop_all()  # it stays open
                return summary
        except DataError as error:
            return CacheSummary(path=path, rows=dict.fromkeys(SPLITS, 0), mib=mib, complete=False, problem=str(error))

    def _complete_datasets(self, backbone: FeaturesOf) -> list[str]:
        """Names of the datasets cached for a backbone: at least one, and none of which there is but half a cache."""
        found = [summary for summary in self.summaries if summary.path.parent.name == backbone.slug]
        names = sorted(summary.dataset for summary in found if summary.complete)
        for summary in found:
            if not summary.complete and summary.dataset not in names:
                raise DataError(
                    f"{summary.path} cannot be used: {summary.problem or 'its pass is not finished'}. "
                    f"Finish it with `cptlite cache`, or name the datasets to open"
                )
        if not names:
            raise DataError(
                f"no cached features of backbone {backbone.name!r} in {self.path}: make them with "
                f"`cptlite cache --dataset NAME --backbone {backbone.name} --cache-dir {self.path}`"
            )
        return names


def cache_files(cache_dir: Path, backbone_slug: str | None = None) -> list[Path]:
    """Find the cache files of a folder, by backbone folder, then by name; nothing is opened."""
    folder = "*" if backbone_slug is None else escape(backbone_slug)
    return [path for path in sorted(Path(cache_dir).glob(f"{folder}/*.h5")) if not path.name.startswith(".")]


def list_caches(cache_dir: Path) -> list[CacheSummary]:
    """Describe every cache file and every unfinished pass under a folder, as `CacheFolder.summaries`."""
    with CacheFolder(cache_dir) as folder:
        return folder.summaries


def open_caches(cache_dir: Path | str, backbone: Backbone, datasets: Sequence[str] | None = None) -> list[FeatureCache]:
    """Open the cached features of a backbone, as `CacheFolder.open`, which see; they are the caller's to close."""
    with ExitStack() as stack:
        folder = stack.enter_context(CacheFolder(cache_dir, backbone.slug))
        caches = folder.open(backbone, datasets)
        stack.pop_all()  # they stay open, unless one could not be opened
    return caches


def _describe_parts(store: PartStore) -> CacheSummary:
    fingerprint = store.identity.get("fingerprint", {})
    return CacheSummary(
        path=store.folder,
        **{name: fingerprint.get(name, "") for name in ("dataset", "backbone", "dtype")},
        rows={**dict.fromkeys(SPLITS, 0), **store.finished_rows()},
        views=fingerprint.get("views", 0),
        local=fingerprint.get("local", 0),
        pre_projection=fingerprint.get("pre_projection", 0),
        mib=_mib(store.folder),
        complete=False,
    )


def _mib(path: Path) -> float:
    """Size of a file, or of the files in a folder; links may lead nowhere, and a pass may end meanwhile."""
    with suppress(OSError):
        return (
            sum(each.lstat().st_size for each in path.iterdir()) / 2**20
            if path.is_dir()
            else path.stat().st_size / 2**20
        )
    return 0.0
