"""A training epoch from cached features against one that encodes its images in every step.

Ways: ``cache`` is this package's; ``images`` reads and encodes a random view of every image in every step, with the
same packed text path; ``original`` also pads every prompt to 77 tokens, as SoftCPT's own code does.

Axes: B images, R pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbone import Backbone
from cptlite.config import ViewConfig
from cptlite.encode_pass import usable_cores
from cptlite.images import normalise, open_rgb, random_pixels
from cptlite.methods.base import FewShotRows, PromptMethod, PromptOptions
from cptlite.methods.softcpt import SoftCPT
from cptlite.timing.clock import Patience, median_seconds
from cptlite.timing.pictures import draw_photos
from cptlite.timing.tasks import make_problem, make_rows
from cptlite.training import Recipe, train_prompts

__all__ = ["bench_train"]

WAYS = {"cache": "fused", "images": "fused", "original": "plain"}
Names = Mapping[str, Sequence[str]]


def bench_train(
    backbone: Backbone,
    suites: Mapping[str, Names],
    shots: int,
    patience: Patience,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Time steps of SoftCPT.

    Parameters
    ----------
    backbone : Backbone
    suites : mapping of str to mapping of str to sequence of str
        Class names by task, by suite.
    shots : int
        Training images per class: with the batch size, the number of steps in an epoch.
    patience : Patience
        For each way.
    tell : callable
        Told what is being done.

    Yields
    ------
    dict
        ``suite``, ``way``, ``step_s``, ``steps_per_epoch``, ``epoch_s`` (the product of the two: whole epochs are not
        run), and ``speedup`` over the original.
    """
    for suite, names in suites.items():
        num_classes = sum(map(len, names.values()))
        steps = max(1, num_classes * shots // Recipe.batch_size)
        seconds = {}
        for way, path in WAYS.items():
            tell(f"{suite}, {way}")
            time_step = _time_cached if way == "cache" else _time_images
            seconds[way] = time_step(backbone, _new_method(backbone, names, path), patience)
        for way, step_s in seconds.items():
            yield {
                "suite": suite,
                "way": way,
                "step_s": step_s,
                "steps_per_epoch": steps,
                "epoch_s": step_s * steps,
                "speedup": seconds["original"] / step_s,
            }


def _new_method(backbone: Backbone, names: Names, text_path: str) -> PromptMethod:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SoftCPT(make_problem(backbone, names, text_path), PromptOptions())


def _time_cached(backbone: Backbone, method: PromptMethod, patience: Patience) -> float:
    """Median seconds of the real loop's step: an epoch over as many rows as a batch has."""
    num_classes = len(method.problem.class_names)
    rows = make_rows(backbone, num_classes, -(-Recipe.batch_size // num_classes), seed=1)
    batch = FewShotRows(features=rows.features[: Recipe.batch_size], labels=rows.labels[: Recipe.batch_size])
    return median_seconds(lambda: train_prompts(method, batch, Recipe(epochs=1), seed=0), backbone.device, patience)


def _time_images(backbone: Backbone, method: PromptMethod, patience: Patience) -> float:
    """Median seconds of a step that reads its images and encodes them."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(usable_cores()) as pool:
        dataset = draw_photos(Path(folder), Recipe.batch_size)
        images = _Images(paths=dataset.splits["train"].paths, folder=Path(folder), backbone=backbone, pool=pool)
        optimizer = torch.optim.SGD(method.parameters(), lr=Recipe.lr, momentum=Recipe.momentum)
        labels = torch.arange(Recipe.batch_size, device=backbone.device) % len(method.problem.class_names)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            method.loss(images.features(), labels).backward()
            optimizer.step()

        return median_seconds(step, backbone.device, patience)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """A batch of image files that is read and encoded whenever it is needed."""

    paths: Sequence[str]
    folder: Path
    backbone: Backbone
    pool: ThreadPoolExecutor

    def features(self) -> Tensor:
        """Raw features of random views: Tensor of shape (B, D)."""
        pixels = torch.from_numpy(np.stack(list(self.pool.map(self._read, self.paths))))  # (B, R, R, 3)
        ready = normalise(pixels.to(self.backbone.device), self.backbone.preprocess_spec)
        return self.backbone.encode_images(ready).clone()  # out of inference mode

    def _read(self, path: str) -> np.ndarray:
        image = open_rgb(self.folder / path)
        return random_pixels(image, self.backbone.resolution, key=path, view=1, views=ViewConfig(views=2))
