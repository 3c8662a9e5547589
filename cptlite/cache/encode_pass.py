"""The work of an encoding pass: images are read in threads, encoded in batches and stored in parts.

A batch has the same rows and the same shape whatever was done before, because the rounding of a row depends on the
shape of its batch: so the features of a resumed pass are the same to the byte.

Axes: N rows of a split, P rows of a part, B rows of a batch, V views, M patches of an image, R pixels a side, D joint
dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cptlite.backbones import Backbone
from cptlite.backbones.images import encode_pixels, read_ahead
from cptlite.cache.format import Fingerprint
from cptlite.cache.parts import PartStore
from cptlite.cache.read import BadImage
from cptlite.cache.shards import Shard
from cptlite.cache.write import SplitContent
from cptlite.datasets.images import UnreadableImageError, open_rgb, plain_pixels, quiet_pillow, random_pixels
from cptlite.datasets.text_files import shown
from cptlite.datasets.types import SPLITS, Dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError

__all__ = ["EncodingPass", "OnProgress"]

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Batch:
    """Rows [start, stop) of a split, of which ``todo`` are not encoded yet; ``parts`` are the ones these lie in."""

    split: str
    start: int
    stop: int
    todo: np.ndarray
    parts: tuple[int, ...]


@dataclass(kw_only=True)
class EncodingPass:
    """One pass over the images of a dataset.

    Attributes
    ----------
    dataset : Dataset
    backbone : Backbone
    fingerprint : Fingerprint
        What the features are to be: their number type, views and patch features.
    store : PartStore
    views : ViewConfig
    batch_size : int
        Images per batch, at most, but never less than the views of one.
    workers : int
        Threads that read images; 0 reads them in the calling thread.
    shard : Shard, optional
        Encode the rows of this one alone.
    on_progress : callable, optional
        Called with rows done, all rows, and the split at work: first with what earlier passes had done.
    encoded : dict of str to ndarray of shape (N,), bool
        By split, the rows whose features are known.
    bad : list of BadImage
        Images found unreadable.
    resumed_rows, encoded_rows : int
        Of the shard, or of all: rows that earlier passes had finished, and rows encoded by this one.
    """

    dataset: Dataset
    backbone: Backbone
    fingerprint: Fingerprint
    store: PartStore
    views: ViewConfig
    batch_size: int
    workers: int
    shard: Shard | None = None
    on_progress: OnProgress | None = None
    encoded: dict[str, np.ndarray] = field(default_factory=dict)
    bad: list[BadImage] = field(default_factory=list)
    resumed_rows: int = 0
    encoded_rows: int = 0
    _total: int = 0
    # Of the parts at work, which are of one split: "features" (P, V, D), "local" (P, M, D) and "pre" (P, V, I).
    _open_parts: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def run(self) -> None:
        """Encode every row that no earlier pass has finished.

        Raises
        ------
        CptliteError
            The GPU's memory is full, or features are not finite.
        """
        self.encoded = {split: self.store.encoded(split, count) for split, count in self.num_rows.items()}
        own = self.own_rows
        self._total = sum(int(rows.sum()) for rows in own.values())
        self.resumed_rows = sum(int((rows & own[split]).sum()) for split, rows in self.encoded.items())
        # Made as they are wanted: what waits grows with the images.
        todo = {split: own[split] & ~self.encoded[split] for split in SPLITS}
        batches = (
            (batch, [(split, row) for row in batch.todo])
            for split in SPLITS
            for batch in self._batches(split, todo[split])
        )
        self._report(next((split for split in SPLITS if todo[split].any()), SPLITS[0]))
        device = torch.device(self.backbone.device)
        with (
            quiet_pillow(),
            closing(read_ahead(batches, self._read_image, workers=self.workers, device=device)) as stream,
        ):
            for batch, images in stream:
                self._encode(batch, images)
                self._report(batch.split)

    def contents(self) -> dict[str, SplitContent]:
        """Give what is encoded to the writer of the file, by split; features are read part by part."""
        contents = {}
        for split in SPLITS:
            rows, encoded = self.dataset.splits[split], self.encoded[split]
            kept = np.flatnonzero(encoded)
            contents[split] = SplitContent(
                labels=np.asarray(rows.labels)[kept],
                tasks=np.asarray(rows.tasks)[kept],
                paths=[rows.paths[row] for row in kept],
                shape=(len(kept), self.fingerprint.num_views(split), self.backbone.embed_dim),
                blocks=self.store.blocks(split, "features", encoded),
                patch_blocks=self.store.blocks(split, "local", encoded),
                pre_blocks=self.store.blocks(split, "pre", encoded),
            )
        return contents

    @cached_property
    def _plain(self) -> Mapping[str, Any]:
        """How the plain view is made."""
        return self.backbone.preprocess_spec

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of the dataset, by split."""
        return {split: len(self.dataset.splits[split]) for split in SPLITS}

    @property
    def own_rows(self) -> dict[str, np.ndarray]:
        """Which rows (N,) are the shard's, bool, by split; all without one."""
        if self.shard is None:
            return {split: np.ones(count, bool) for split, count in self.num_rows.items()}
        return self.shard.own_rows(self.num_rows, {split: self._size(split) for split in SPLITS}, self.store.part_rows)

    def _size(self, split: str) -> int:
        """Rows of a batch."""
        return max(1, self.batch_size // self.fingerprint.num_views(split))

    def _batches(self, split: str, wanted: np.ndarray) -> Iterator[_Batch]:
        """Batches with ``wanted`` rows (N,). One that fits into a part ends with it; larger ones span parts."""
        part_rows, size = self.store.part_rows, self._size(split)
        span = max(size, part_rows)
        for first in range(0, len(wanted), span):
            end = min(first + span, len(wanted))
            for start in range(first, end, size):
                stop = min(start + size, end)
                todo = start + np.flatnonzero(wanted[start:stop])
                if len(todo):
                    yield _Batch(split, start, stop, todo, tuple(np.unique(todo // part_rows).tolist()))

    def _read_image(self, place: tuple[str, int]) -> np.ndarray | BadImage:
        """Pixels (V, R, R, 3) of a row of a split, the plain view first, or why there are none."""
        split, row = place
        path, side = self.dataset.splits[split].paths[row], self.backbone.resolution
        try:
            image = open_rgb(self.dataset.image_root / path)
            random_views = range(1, self.fingerprint.num_views(split))
            pixels = [random_pixels(image, side, key=path, view=view, views=self.views) for view in random_views]
            return np.stack([plain_pixels(image, self._plain), *pixels])
        except UnreadableImageError as error:
            return BadImage(split, path, str(error))

    def _encode(self, batch: _Batch, images: list[np.ndarray | BadImage]) -> None:
        """Encode what could be read, in a batch of full size whose other rows are blank, and put it into its parts."""
        side, num_views = self.backbone.resolution, self.fingerprint.num_views(batch.split)
        pixels = np.zeros((batch.stop - batch.start, num_views, side, side, 3), np.uint8)
        for row, image in zip(batch.todo, images, strict=True):
            if isinstance(image, BadImage):
                self.bad.append(image)
            else:
                pixels[row - batch.start] = image
        rows = batch.todo[[not isinstance(image, BadImage) for image in images]]
        features: dict[str, np.ndarray] = {}
        if len(rows):
            features = {name: values[rows - batch.start] for name, values in self._features(pixels).items()}
            self._check_finite(batch.split, rows, features)
        self._store(batch, rows, features)
        self.encoded_rows += len(rows)

    def _features(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Pixels (B, V, R, R, 3) to what is stored of them, by name, in the stored number type."""
        rows, num_views = pixels.shape[:2]
        flat = torch.from_numpy(pixels).flatten(0, 1)  # (B * V, R, R, 3)
        plain = slice(None, None, num_views) if self.fingerprint.local else None
        found = encode_pixels(self.backbone, flat, plain, pre=bool(self.fingerprint.pre_projection))
        dtype = getattr(torch, self.fingerprint.dtype)
        return {
            name: value.to(dtype).cpu().numpy().reshape(rows, -1, value.shape[-1])
            for name, value in found._asdict().items()
            if value is not None
        }

    def _check_finite(self, split: str, rows: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
        finite = np.all([np.isfinite(values).all(axis=(1, 2)) for values in features.values()], axis=0)
        if not finite.all():
            path = self.dataset.splits[split].paths[rows[finite.argmin()]]
            raise CptliteError(
                f"the features of {shown(path)} are not finite in {self.fingerprint.dtype} with precision "
                f"{self.fingerprint.precision}: give --precision float32 or --dtype float32; if that does not help, "
                f"the weights are damaged"
            )

    def _store(self, batch: _Batch, rows: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
        """Put the features of some rows of a batch into its parts, and write the parts that no later batch touches."""
        encoded, size = self.encoded[batch.split], self.store.part_rows
        for part in batch.parts:
            start = part * size
            here = encoded[start : start + size]  # (P,), a view
            if part not in self._open_parts:
                self._open_parts[part] = self._part_arrays(batch.split, part, here)
            of_part = rows // size == part
            for name, values in features.items():
                self._open_parts[part][name][rows[of_part] - start] = values[of_part]
            encoded[rows[of_part]] = True
            if encoded[batch.stop : start + size].all():
                self.store.write(batch.split, part, self._open_parts.pop(part), here)

    def _part_arrays(self, split: str, part: int, encoded: np.ndarray) -> dict[str, np.ndarray]:
        """Features by name, (P, ...), that an earlier pass has of a part, or zeros."""
        shapes = self.fingerprint.arrays(split, self.backbone.embed_dim)
        if encoded.any():
            return {name: self.store.read(split, part, name) for name in shapes}
        return {name: np.zeros((len(encoded), *shape), self.fingerprint.dtype) for name, shape in shapes.items()}

    def _report(self, split: str) -> None:
        if self.on_progress is not None:
            self.on_progress(self.resumed_rows + self.encoded_rows + len(self.bad), self._total, split)
