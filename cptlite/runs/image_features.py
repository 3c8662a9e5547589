"""Images to features as a classifier takes them, batch by batch: what is predicted holds one batch at a time.

Axes: B images of a batch, M patches of an image, R pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.backbones.images import count_workers, encode_pixels, read_ahead
from cptlite.classifiers import (
    Classifier,
    JoinedClassifier,
    PreProjectedClassifier,
    StoredClassifier,
    TransportClassifier,
)
from cptlite.datasets.images import UnreadableImageError, plain_pixels, read_rgb
from cptlite.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["EncodedBatch", "ImageReading", "encode_images", "needs_patches", "needs_pre_projection"]


@dataclass(frozen=True, kw_only=True)
class ImageReading:
    """How images are read and encoded.

    Attributes
    ----------
    patches : bool
        Whether the classifier takes patch features.
    pre : bool
        Whether it takes features before the projection.
    dtype : str
        Number type that features are rounded to, as they were when the classifier was learned from cached ones.
    batch_size : int
        Images that go through the image tower at once.
    workers : int, optional
        Threads that read images; by default one a core, 16 at most.
    """

    patches: bool = False
    pre: bool = False
    dtype: str = "float32"
    batch_size: int = 32
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch-size must be at least 1, got {self.batch_size}")
        count_workers(self.workers)

    @classmethod
    def of_run(cls, stored: StoredClassifier, results: Mapping[str, Any] | None = None, **given: Any) -> ImageReading:
        """Read as the features were made that a run learned from, whose ``results.json`` says their number type."""
        caches = (results or {}).get("caches") or {}
        dtypes = {fingerprint.get("dtype") for fingerprint in caches.values()}
        dtype = "float16" if dtypes == {"float16"} else "float32"
        kinds = {"patches": needs_patches(stored.classifier), "pre": needs_pre_projection(stored.classifier)}
        return cls(dtype=dtype, **kinds, **given)


def needs_patches(classifier: Classifier) -> bool:
    """Whether a classifier scores patch features (B, M, D) instead of pooled ones."""
    return _has_part(classifier, TransportClassifier)


def needs_pre_projection(classifier: Classifier) -> bool:
    """Whether a classifier scores features before the projection, (B, I), instead of those behind it."""
    return _has_part(classifier, PreProjectedClassifier)


def _has_part(classifier: Classifier, kind: type) -> bool:
    parts = classifier.parts if isinstance(classifier, JoinedClassifier) else (classifier,)
    return any(isinstance(part, kind) for part in parts)


class EncodedBatch(NamedTuple):
    """Images of a batch: B of them, why each could not be read ("" if it could), and the features of the others."""

    images: list[str]
    reasons: list[str]
    features: Tensor


def encode_images(
    backbone: Backbone, sources: Iterable[Path | str | Image.Image], reading: ImageReading
) -> Iterator[EncodedBatch]:
    """Encode images batch by batch; sources are taken as they are needed.

    Parameters
    ----------
    backbone : Backbone
    sources : iterable of path, or of PIL.Image.Image
    reading : ImageReading

    Yields
    ------
    EncodedBatch
        Features are raw, (B, D), of patches (B, M, D) or before the projection (B, I), float32 on the backbone's
        device.

    Raises
    ------
    CptliteError
        The GPU's memory is full.
    """
    spec = backbone.preprocess_spec

    def read(source: Path | str | Image.Image) -> np.ndarray | str:
        try:
            return plain_pixels(read_rgb(source), spec)
        except UnreadableImageError as error:
            return str(error)

    stream = iter(sources)
    batches = iter(lambda: list(islice(stream, reading.batch_size)), [])
    named = (([_name(source) for source in batch], batch) for batch in batches)
    workers = count_workers(reading.workers)
    with closing(read_ahead(named, read, workers=workers, device=backbone.device)) as ready:
        for names, pixels in ready:
            sound = [each for each in pixels if isinstance(each, np.ndarray)]
            reasons = [each if isinstance(each, str) else "" for each in pixels]
            features = torch.empty(0, backbone.embed_dim)
            if sound:
                whole = slice(None) if reading.patches else None
                found = encode_pixels(backbone, torch.from_numpy(np.stack(sound)), whole, pre=reading.pre)
                wanted = next(each for each in (found.local, found.pre, found.features) if each is not None)
                features = wanted.to(getattr(torch, reading.dtype)).float()
            yield EncodedBatch(names, reasons, features)


def _name(source: Path | str | Image.Image) -> str:
    """Path of an image; of one that is in memory that of its file, if it has one."""
    path = source if isinstance(source, Path | str) else getattr(source, "filename", "")
    return str(path or "an image in memory")
