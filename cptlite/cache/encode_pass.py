"""The work of an encoding pass: images are read in threads, encoded in batches and stored in parts.

Threads, not processes: Pillow decodes and resizes without the interpreter's lock, and a killed pass leaves no orphans.
Batches have the same rows whatever was done before, so that the features of a resumed pass are the same to the byte.

Axes: P rows per part, B rows per batch, V views, M places of an image, R pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch

from cptlite.backbones.clip import Backbone
from cptlite.cache.parts import PartStore
from cptlite.cache.read import BadImage
from cptlite.cache.write import SplitContent
from cptlite.datasets.images import UnreadableImageError, normalise, open_rgb, plain_pixels, quiet_pillow, random_pixels
from cptlite.datasets.types import SPLITS, Dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import CptliteError

__all__ = ["EncodingPass", "OnProgress"]

OnProgress = Callable[[int, int, str], None]
# Batches read ahead of the encoder. On the CPU reading ahead would take cores from the encoder.
AHEAD = {"cpu": 0}
AHEAD_OF_DEVICE = 2


@dataclass(eq=False)
class _Part:
    """Rows [start, start + P) of a split; ``ok`` says which are encoded."""

    split: str
    index: int
    start: int
    num_views: int
    ok: np.ndarray
    # While the part is worked on: "features" (P, V, D), and "local" (P, M, D) where wanted.
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    """Rows [start, start + size) of a part, of which ``todo`` are to be encoded; ``last`` of its part."""

    part: _Part
    start: int
    size: int
    todo: np.ndarray
    last: bool


@dataclass(kw_only=True)
class EncodingPass:
    """One pass over the images of a dataset.

    Attributes
    ----------
    dataset : Dataset
    backbone : Backbone
    store : PartStore
    views : ViewConfig
    dtype : str
        Stored number type.
    part_rows, batch_size : int
        Rows per part, and images per batch.
    workers : int
        Threads that read images; 0 reads them in the calling thread.
    local : bool
        Whether the plain view's local features are stored too.
    on_progress : callable, optional
        Told rows done, all rows, and the split at work: first with what earlier passes had done.
    bad : list of BadImage
        Images found unreadable.
    resumed_rows, encoded_rows : int
        Rows that earlier passes had finished, and rows encoded by this one.
    """

    dataset: Dataset
    backbone: Backbone
    store: PartStore
    views: ViewConfig
    dtype: str
    part_rows: int
    batch_size: int
    workers: int
    local: bool = False
    on_progress: OnProgress | None = None
    bad: list[BadImage] = field(default_factory=list)
    resumed_rows: int = 0
    encoded_rows: int = 0
    _parts: list[_Part] = field(default_factory=list)

    def run(self) -> None:
        """Encode every row that no earlier pass has finished."""
        self._parts = list(self._find_parts())
        self.resumed_rows = sum(int(part.ok.sum()) for part in self._parts)
        batches = [batch for part in self._parts for batch in self._batches(part)]
        self._report(batches[0].part.split if batches else SPLITS[0])
        with quiet_pillow(), closing(self._loaded(batches)) as stream:
            for batch, loaded in stream:
                self._encode(batch, loaded)
                if batch.last:
                    self._finish(batch.part)
                self._report(batch.part.split)

    def contents(self) -> dict[str, SplitContent]:
        """Give what the finished parts hold, without unreadable images, by split."""
        return {split: self._content(split) for split in SPLITS}

    def _find_parts(self) -> Iterator[_Part]:
        for split in SPLITS:
            num_views = self.views.views if split == "train" else 1
            num_rows = len(self.dataset.splits[split])
            for index, start in enumerate(range(0, num_rows, self.part_rows)):
                size = min(self.part_rows, num_rows - start)
                ok = self.store.finished(split, index)
                ok = np.zeros(size, bool) if ok is None else ok
                yield _Part(split, index, start, num_views, ok)

    def _batches(self, part: _Part) -> list[_Batch]:
        rows = max(1, self.batch_size // part.num_views)
        size = len(part.ok)
        starts = [start for start in range(0, size, rows) if not part.ok[start : start + rows].all()]
        return [
            _Batch(
                part,
                start,
                min(rows, size - start),
                start + np.flatnonzero(~part.ok[start : start + rows]),
                start == starts[-1],
            )
            for start in starts
        ]

    def _loaded(self, batches: Iterable[_Batch]) -> Generator[tuple[_Batch, list[np.ndarray | str]]]:
        """Each batch with the pixels of its rows, or the reasons why there are none."""
        if self.workers == 0:
            for batch in batches:
                yield batch, [self._load(batch.part, row) for row in batch.todo]
            return
        ahead = AHEAD.get(torch.device(self.backbone.device).type, AHEAD_OF_DEVICE)
        waiting: deque = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        try:
            for batch in batches:
                waiting.append((batch, [pool.submit(self._load, batch.part, row) for row in batch.todo]))
                if len(waiting) > ahead:
                    ready, futures = waiting.popleft()
                    yield ready, [future.result() for future in futures]
            for ready, futures in waiting:
                yield ready, [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, part: _Part, row: int) -> np.ndarray | str:
        """Pixels (V, R, R, 3) of one row, or why there are none."""
        key, side = self.dataset.splits[part.split].paths[part.start + row], self.backbone.resolution
        try:
            image = open_rgb(self.dataset.image_root / key)
            drawn = [
                random_pixels(image, side, key=key, view=view, views=self.views) for view in range(1, part.num_views)
            ]
            return np.stack([plain_pixels(image, side), *drawn])
        except UnreadableImageError as error:
            return str(error)

    def _encode(self, batch: _Batch, loaded: list[np.ndarray | str]) -> None:
        """Encode the batch, at its full size whatever is to do: the rounding of a row depends on the batch's shape."""
        part, side = batch.part, self.backbone.resolution
        pixels = np.zeros((batch.size, part.num_views, side, side, 3), np.uint8)
        good = []
        for row, found in zip(batch.todo, loaded, strict=True):
            if isinstance(found, str):
                path = self.dataset.splits[part.split].paths[part.start + row]
                self.bad.append(BadImage(part.split, path, found))
            else:
                pixels[row - batch.start] = found
                good.append(row)
        if not part.arrays:
            part.arrays = self._old_arrays(part)
        if good:
            rows = np.array(good)
            for name, found in self._features(pixels).items():
                part.arrays[name][rows] = found[rows - batch.start]
            self._check_finite(part, rows)
            part.ok[rows] = True
            self.encoded_rows += len(good)

    def _features(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Pixels (B, V, R, R, 3) to features (B, V, D), and local ones (B, M, D), in the stored number type."""
        rows, num_views = pixels.shape[:2]
        flat = torch.from_numpy(pixels).flatten(0, 1).to(self.backbone.device)  # (B * V, R, R, 3)
        try:
            images = normalise(flat, self.backbone.preprocess_spec)
            if self.local:
                pooled, local = self.backbone.encode_with_local(images, slice(None, None, num_views))
                found = {"features": pooled, "local": local}
            else:
                found = {"features": self.backbone.encode_images(images)}
        except torch.cuda.OutOfMemoryError as error:
            raise CptliteError(
                f"the GPU's memory does not hold {len(flat)} images of {self.backbone.resolution} pixels a side: "
                f"give a smaller --batch-size; what is encoded so far is kept"
            ) from error
        dim, dtype = self.backbone.embed_dim, getattr(torch, self.dtype)
        return {name: value.to(dtype).cpu().numpy().reshape(rows, -1, dim) for name, value in found.items()}

    def _old_arrays(self, part: _Part) -> dict[str, np.ndarray]:
        """Take what an earlier pass has of a part, or zeros."""
        counts = {"features": part.num_views} | ({"local": self.backbone.num_local} if self.local else {})
        if part.ok.any():
            return {name: self.store.read(part.split, part.index, name)[0] for name in counts}
        shapes = {name: (len(part.ok), count, self.backbone.embed_dim) for name, count in counts.items()}
        return {name: np.zeros(shape, self.dtype) for name, shape in shapes.items()}

    def _check_finite(self, part: _Part, rows: np.ndarray) -> None:
        finite = [np.isfinite(values[rows]).all(axis=(1, 2)) for values in part.arrays.values()]
        broken = rows[~np.all(finite, axis=0)]
        if len(broken):
            path = self.dataset.splits[part.split].paths[part.start + broken[0]]
            raise CptliteError(
                f"the features of {path} are not finite in {self.dtype} with precision {self.backbone.precision}: "
                f"give --precision float32 or --dtype float32; if that does not help, the weights are damaged"
            )

    def _finish(self, part: _Part) -> None:
        self.store.write(part.split, part.index, part.arrays, part.ok)
        part.arrays = {}

    def _report(self, split: str) -> None:
        if self.on_progress is not None:
            total = sum(len(part.ok) for part in self._parts)
            self.on_progress(self.resumed_rows + self.encoded_rows + len(self.bad), total, split)

    def _content(self, split: str) -> SplitContent:
        rows, parts = self.dataset.splits[split], [part for part in self._parts if part.split == split]
        kept = np.flatnonzero(np.concatenate([np.zeros(0, bool), *(part.ok for part in parts)]))
        num_views = self.views.views if split == "train" else 1
        return SplitContent(
            labels=np.asarray(rows.labels)[kept],
            tasks=np.asarray(rows.tasks)[kept],
            paths=[rows.paths[row] for row in kept],
            shape=(len(kept), num_views, self.backbone.embed_dim),
            blocks=(self._block(part, "features") for part in parts),
            local_blocks=(self._block(part, "local") for part in parts),
        )

    def _block(self, part: _Part, name: str) -> np.ndarray:
        values, ok = self.store.read(part.split, part.index, name)
        return values[ok]
