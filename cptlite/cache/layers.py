"""A cache file read as of another layer of the image tower.

Axes: n rows asked for, V views, I input of the tower's projection, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from cptlite.cache.read import FeatureCache
from cptlite.errors import DataError

__all__ = ["before_projection"]


def before_projection(caches: Iterable[FeatureCache], wanted: bool = True) -> list[FeatureCache]:
    """Read the same files with the features before the projection, (n, V, I), for `FeatureCache.features`.

    Parameters
    ----------
    caches : iterable of FeatureCache
        Which still are what is to be closed.
    wanted : bool
        False leaves them as they are.

    Raises
    ------
    DataError
        A cache was made without them.
    """
    found = list(caches)
    for place, cache in enumerate(found if wanted else ()):
        if not cache.fingerprint.pre_projection:
            raise DataError(
                f"wanted features before the projection in {cache.path}, got a cache without them: make it anew with "
                f"`cptlite cache --pre-projection --force --dataset {cache.fingerprint.dataset} "
                f"--backbone {cache.fingerprint.backbone}`"
            )
        found[place] = copy(cache)
        found[place].array = "pre"
    return found
