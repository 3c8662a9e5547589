"""Which views of a training image are cached."""

from __future__ import annotations

from dataclasses import dataclass

from cptlite.errors import UsageError

__all__ = ["ViewConfig"]

MAX_SEED = 2**63 - 1  # a cache file stores it as a 64-bit integer


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Which views of a training image are cached.

    Attributes
    ----------
    views : int
        Views per training image, at least 1: the plain preprocess and ``views - 1`` random ones.
    seed : int
        Seed of the random views, at least 0.
    min_scale : float
        Smallest share of the image's area that a random crop keeps, in (0, 1].
    flip : bool
        Whether a random view is mirrored with probability one half.

    Raises
    ------
    UsageError
        A number is out of range.
    """

    views: int = 1
    seed: int = 0
    min_scale: float = 0.08
    flip: bool = True

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UsageError(f"views must be at least 1 (1 is the plain view), got {self.views}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"the seed of the views must be from 0 to {MAX_SEED}, got {self.seed}.")
        if not 0 < self.min_scale <= 1:
            raise UsageError(
                f"min_scale, the smallest share of the area a crop keeps, must lie in (0, 1], got {self.min_scale}."
            )
