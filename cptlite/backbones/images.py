"""Image files to features: read in threads ahead of the image tower, encoded batch by batch.

Threads, not processes: Pillow decodes and resizes without the interpreter's lock, and a killed pass leaves no orphans.

Axes: B images, M patches of an image, R pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from cptlite.backbones.backbone import Backbone
from cptlite.datasets.images import normalise
from cptlite.environment import usable_cores
from cptlite.errors import CptliteError, UsageError

__all__ = ["count_workers", "encode_pixels", "read_ahead"]

MAX_WORKERS = 16
# Batches read ahead of the encoder. On the CPU reading ahead would take cores from the encoder.
PREFETCH = {"cpu": 0}
PREFETCH_ON_DEVICE = 2

Key = TypeVar("Key")
Item = TypeVar("Item")
Read = TypeVar("Read")


def count_workers(asked: int | None) -> int:
    """Threads that read images: as many as were asked for, or one a core, `MAX_WORKERS` at most.

    Raises
    ------
    UsageError
        Less than none were asked for.
    """
    if asked is not None and asked < 0:
        raise UsageError(f"workers must be at least 0, got {asked}")
    return min(usable_cores(), MAX_WORKERS) if asked is None else asked


def read_ahead(
    batches: Iterable[tuple[Key, Sequence[Item]]],
    read: Callable[[Item], Read],
    *,
    workers: int,
    device: torch.device,
) -> Generator[tuple[Key, list[Read]]]:
    """Read batches in threads, in their order; of those that are waited for, no more are held than are read ahead.

    Parameters
    ----------
    batches : iterable of (key, items)
        Taken one by one, as they are wanted.
    read : callable
        From an item to what is read of it.
    workers : int
        Threads; 0 reads in the calling thread.
    device : torch.device
        Where what is read goes.

    Yields
    ------
    key, list
        Of a batch, and what was read of its items.
    """
    if workers == 0:
        for key, items in batches:
            yield key, [read(item) for item in items]
        return
    ahead = PREFETCH.get(device.type, PREFETCH_ON_DEVICE)
    queue: deque = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        for key, items in batches:
            queue.append((key, [pool.submit(read, item) for item in items]))
            if len(queue) > ahead:
                ready, futures = queue.popleft()
                yield ready, [future.result() for future in futures]
        while queue:
            ready, futures = queue.popleft()
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


class EncodedPixels(NamedTuple):
    """What comes out of the image tower, float32, *not* unit length.

    Attributes
    ----------
    features : Tensor of shape (B, D)
    local : Tensor of shape (B of these, M, D), optional
        Patch features.
    pre : Tensor of shape (B, I), optional
        Features before the projection.
    """

    features: Tensor
    local: Tensor | None = None
    pre: Tensor | None = None


def encode_pixels(
    backbone: Backbone, pixels: Tensor, patches_of: slice | None = None, *, pre: bool = False
) -> EncodedPixels:
    """Encode square views.

    Parameters
    ----------
    backbone : Backbone
    pixels : Tensor of shape (B, R, R, 3), uint8
    patches_of : slice, optional
        Images whose patch features are wanted too.
    pre : bool
        Whether features before the projection are wanted too: with patch features these take a forward of their own.

    Returns
    -------
    EncodedPixels

    Raises
    ------
    CptliteError
        The GPU's memory is full.
    """
    try:
        images = normalise(pixels.to(backbone.device), backbone.preprocess_spec)
        before = backbone.encode_before_projection(images) if pre else None
        if patches_of is not None:
            return EncodedPixels(*backbone.encode_with_patches(images, patches_of), before and before[1])
        if before:
            return EncodedPixels(before[0], pre=before[1])
        return EncodedPixels(backbone.encode_images(images))
    except torch.cuda.OutOfMemoryError as error:
        raise CptliteError(
            f"the GPU's memory does not hold {len(pixels)} images of {backbone.resolution} pixels a side: "
            f"give a smaller --batch-size"
        ) from error
