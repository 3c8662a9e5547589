"""What is reproduced: a suite of the paper or the demo, whose features, and where data, caches and runs lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cptlite.backbones import Backbone, backbone_slug
from cptlite.cache import CacheFolder
from cptlite.cache.encode import encode_dataset
from cptlite.config import RunConfig
from cptlite.datasets import DatasetSpec, ViewConfig, load_catalog, read_dataset
from cptlite.datasets.locate import find_dataset
from cptlite.errors import UsageError
from cptlite.runs.sweep import shared_backbone

__all__ = ["DEMO", "Target", "encode_missing", "load_shared"]

PAPER, DEMO = "paper", "demo"
BACKBONE = "RN50"  # the paper's


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is reproduced, and where.

    Attributes
    ----------
    suite : str
    specs : sequence of DatasetSpec
        Its datasets.
    backbone : str
    root, cache_dir, out : Path
        Of datasets, caches and runs.
    """

    suite: str
    specs: Sequence[DatasetSpec]
    backbone: str
    root: Path
    cache_dir: Path
    out: Path

    @classmethod
    def find(
        cls,
        what: str,
        suite: str | None,
        *,
        backbone: str | None = None,
        root: Path | None = None,
        cache_dir: Path | None = None,
        out: Path | None = None,
    ) -> Target:
        """Settle what was left out: of the demo, the places that ``cptlite demo`` fills.

        Raises
        ------
        UsageError
            ``what`` is neither ``paper`` nor ``demo``, or the suite is not one of its.
        """
        if what not in (PAPER, DEMO):
            raise UsageError(f"wanted {PAPER} or {DEMO} to reproduce, got {what!r}")
        of_demo = what == DEMO
        if of_demo and suite not in (None, DEMO):
            raise UsageError(f"the demo has one suite, got --suite {suite}: leave it out, or reproduce {PAPER}")
        if suite is None and not of_demo:
            raise UsageError("wanted a suite of the paper, got none: give --suite general10, plant6 or fashion20")
        base, name = Path(DEMO) if of_demo else Path(), suite or DEMO
        return cls(
            suite=name,
            specs=load_catalog().resolve([name]),
            backbone=backbone or (DEMO if of_demo else BACKBONE),
            root=root or base / "data",
            cache_dir=cache_dir or base / "cache",
            out=out or base / ("reproduced" if of_demo else "runs"),
        )

    @property
    def of_demo(self) -> bool:
        """Whether it is the demo, of which the paper knows nothing."""
        return self.suite == DEMO

    def cached(self) -> set[str]:
        """Names of the datasets whose caches are whole."""
        with CacheFolder(self.cache_dir, backbone_slug(self.backbone)) as folder:
            return {each.dataset for each in folder.summaries if each.complete}


def encode_missing(target: Target, *, views: int, patches: bool, on_progress: Callable[[int, int, str], None]) -> None:
    """Encode what is not cached; a stopped pass goes on.

    Parameters
    ----------
    target : Target
    views : int
        Of a training image.
    patches : bool
        Whether to keep the patch features of every image's plain view.
    on_progress : callable
        Told the images done, those in all, and their dataset.
    """
    encoder = load_shared(target.backbone)
    kept: dict[str, Any] = {"views": ViewConfig(views=views), "patches": patches}
    for spec in target.specs:
        if find_dataset(spec, target.root):
            kept["on_progress"] = lambda done, total, split, name=spec.name: on_progress(done, total, name)
            encode_dataset(read_dataset(spec, target.root), encoder, target.cache_dir, **kept)


def load_shared(backbone: str) -> Backbone:
    """Load a backbone as runs that say no more of it do, so that those of this process find it loaded."""
    return shared_backbone(backbone, RunConfig.device, RunConfig.precision, RunConfig.linear_backend)
