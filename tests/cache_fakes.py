"""A cheap backbone and drawn datasets for the tests of the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cptlite.datasets.types import SPLITS, Dataset, Rows, Task

SIDE = 16
WIDTH = 8
WEIGHTS = np.random.default_rng(7).normal(size=(3 * SIDE * SIDE, WIDTH)).astype(np.float32)
CLASSES = ("red oak", "Erdbeere 草莓", "a/b")


@dataclass
class FakeBackbone:
    """Encodes by a fixed random projection and counts what it is given."""

    name: str = "fake:one"
    slug: str = "fake-one"
    weights_sha256: str = hashlib.sha256(b"one").hexdigest()
    precision: str = "float32"
    scale: float = 1.0
    resolution: int = SIDE
    embed_dim: int = WIDTH
    num_patches: int = 3
    device: torch.device = torch.device("cpu")
    batches: list[int] = field(default_factory=list)

    @property
    def preprocess_spec(self) -> dict:
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        return {"resize": SIDE, "interpolation": "bicubic", "crop": "center", "mean": mean, "std": std}

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.dtype == torch.float32
        self.batches.append(len(images))
        # numpy multiplies matrices as small as these without waking other threads
        return torch.from_numpy(images.flatten(1).numpy() @ WEIGHTS * np.float32(self.scale))

    @property
    def pre_projection_dim(self) -> int:
        return self.embed_dim + 2

    def encode_before_projection(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.encode_images(images)
        return pooled, torch.cat([pooled, 2 * pooled[:, :2]], dim=1)

    def encode_with_patches(self, images: Tensor, kept: slice) -> tuple[Tensor, Tensor]:
        pooled = self.encode_images(images)
        places = torch.arange(1, 1 + self.num_patches)[:, None]
        return pooled, pooled[kept, None] * places  # (B of kept, M, D)


def draw_image(path: Path, seed: int) -> None:
    """Write a small photograph of noise, in the format of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed % 5, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_dataset(root: Path, sizes: tuple[int, int, int] = (21, 6, 10), name: str = "drawn") -> Dataset:
    """Draw a dataset of two tasks; the images are there already if ``root`` is."""
    drawn = root.exists()
    splits = {}
    for split, size in zip(SPLITS, sizes, strict=True):
        paths = tuple(f"{split}/é {row:03d}.{('png', 'jpg', 'bmp')[row % 3]}" for row in range(size))
        rows = np.arange(size, dtype=np.int32)
        splits[split] = Rows(paths=paths, labels=rows % 3, tasks=rows % 2)
        for seed, path in enumerate(paths):
            if not drawn:
                draw_image(root / path, seed)
    return Dataset(name=name, image_root=root, tasks=make_tasks(), splits=splits)


def make_tasks(template: str = "a photo of a {}.") -> tuple[Task, ...]:
    ids = ("drawn/first", "drawn/second 50%")
    return tuple(
        Task(id=one, name="things", class_names=CLASSES, template=template, metric="mean_per_class_recall")
        for one in ids
    )
