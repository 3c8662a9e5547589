"""What a ``train`` without words trains on: the one cached backbone, its datasets, the name of their suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cptlite.cli.console import note
from cptlite.cli.options import CACHE_DIR
from cptlite.datasets.suites import choose_suite
from cptlite.errors import DataError, UsageError

if TYPE_CHECKING:
    from cptlite.cache import CacheFolder
    from cptlite.datasets import Catalog

__all__ = ["choose_backbone", "choose_datasets", "choose_suite", "usable_caches"]

Cached = Mapping[str, Sequence[str]]
"""Datasets that are cached, by name of the backbone."""


def usable_caches(folder: CacheFolder) -> dict[str, list[str]]:
    """List the datasets that are cached, by name of the backbone; say what is left out, and why.

    Raises
    ------
    DataError
        There are caches, and none can be used.
    """
    cached: dict[str, list[str]] = {}
    for summary in folder.summaries:
        if summary.complete:
            cached.setdefault(summary.backbone, []).append(summary.dataset)
        else:
            note(f"left out: {summary.path}: {summary.problem or 'its pass is not finished'}")
    if folder.summaries and not cached:
        raise DataError(
            f"wanted usable caches in {folder.path}, found none among {len(folder.summaries)}: what to do with each "
            f"stands beside it"
        )
    return cached


def choose_backbone(cached: Cached, wanted: str | None, cache_dir: Path) -> str:
    """Find the backbone whose caches are meant; a path is only ever the user's, whatever caches name.

    Parameters
    ----------
    cached : mapping of str to sequence of str
        Cached datasets by backbone.
    wanted : str or None
        What the user asked for, if anything.
    cache_dir : Path
        Where the caches lie, for the message.

    Returns
    -------
    str
        A key of ``cached``; if it is a path, one that leads where the user's does.

    Raises
    ------
    UsageError
        There are caches of several backbones, and the user asked for none; or of a checkpoint, which only its path in
        the cache would name.
    DataError
        Nothing is cached, or not for the backbone asked for.
    """
    from cptlite.backbones import check_user_named, same_backbone

    if not cached:
        raise DataError(
            f"wanted cached features in {cache_dir}, found none. "
            f"Make some with: cptlite cache --dataset NAME{_place(cache_dir)}"
        )
    if wanted is None:
        if len(cached) > 1:
            raise UsageError(f"{cache_dir} holds caches of {_listed(cached)}: say which with --backbone")
        only = next(iter(cached))
        check_user_named(only, None, cache_dir)
        return only
    found = next((name for name in cached if same_backbone(name, wanted)), None)
    if found is None:
        raise DataError(
            f"wanted features of backbone {wanted!r} in {cache_dir}, found those of {_listed(cached)}. Make them "
            f"with: cptlite cache --dataset NAME --backbone {wanted}{_place(cache_dir)}"
        )
    return found


def choose_datasets(cached: Sequence[str], words: Sequence[str], catalog: Catalog, backbone: str) -> tuple[str, ...]:
    """Find the datasets to train on.

    Parameters
    ----------
    cached : sequence of str
        Datasets that are cached for the backbone.
    words : sequence of str
        What the user gave as ``--dataset``; with none, everything cached is meant.
    catalog : Catalog
        Says what the words stand for.
    backbone : str
        For the message.

    Returns
    -------
    tuple of str
        Names of cached datasets, each once, in the order of the words; without words in a suite's own order where they
        are that suite, else by name.

    Raises
    ------
    UsageError
        A word is no dataset.
    DataError
        A dataset is not cached.
    """
    if not words:
        suites = (suite.datasets for suite in catalog.suites.values() if set(suite.datasets) == set(cached))
        return next(suites, tuple(sorted(cached)))
    names = []
    for word in words:
        names += [word] if word in cached else [spec.name for spec in catalog.resolve([word])]
    missing = [name for name in dict.fromkeys(names) if name not in cached]
    if missing:
        wanted = " ".join(f"--dataset {name}" for name in missing)
        raise DataError(
            f"wanted cached features of {', '.join(missing)} for backbone {backbone!r}, found {', '.join(cached)}. "
            f"Make them with: cptlite cache {wanted} --backbone {backbone}"
        )
    return tuple(dict.fromkeys(names))


def _place(cache_dir: Path) -> str:
    return "" if cache_dir == CACHE_DIR else f" --cache-dir {cache_dir}"


def _listed(cached: Cached) -> str:
    return "; ".join(f"{backbone} ({', '.join(sorted(names))})" for backbone, names in sorted(cached.items()))
