"""A training epoch from cached features against one that encodes its images in every step.

Ways: ``cache`` is this package's; ``together`` is the same for several runs at a time, as an axis of one forward;
``images`` reads and encodes a random view of every image in every step, with the same packed text path; ``original``
also pads every prompt to 77 tokens, as SoftCPT's own code does.

Axes: R runs trained together, B images, P pixels a side, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.datasets.images import normalise, open_rgb, random_pixels
from cptlite.datasets.views import ViewConfig
from cptlite.environment import usable_cores
from cptlite.methods.base import FewShotRows
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.softcpt import SoftCPT, SoftCPTOptions
from cptlite.timing.clock import Patience, median_seconds
from cptlite.timing.pictures import draw_photos
from cptlite.timing.tasks import make_problem, make_rows
from cptlite.training.loop import train
from cptlite.training.recipe import PAPER, RECIPES, Recipe
from cptlite.training.state import TrainingState

__all__ = ["TrainSizes", "bench_train"]

STEPS_ON_GPU = 200  # to time at least: enough for recording a step to show at its true share
Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class TrainSizes:
    """How much is trained.

    Attributes
    ----------
    shots : int
        Training images per class: with the batch size, the number of steps in an epoch.
    runs : int
        R of ``together``; 1 leaves that way out.
    epochs : int
        Time whole trainings of so many epochs from the cache, and of steps the text path alone; 0 times steps of every
        way, but of the full recipe a whole training.
    recipe : str
        ``paper`` or ``full``.
    """

    shots: int = 16
    runs: int = 3
    epochs: int = 0
    recipe: str = PAPER

    def new_recipe(self) -> Recipe:
        """Numbers of the recipe, with its epochs."""
        recipe = Recipe(**{"recipe": self.recipe, **RECIPES[self.recipe]}).at(self.shots)
        return replace(recipe, epochs=self.epochs or recipe.epochs)

    @property
    def whole(self) -> bool:
        """Whether whole trainings are timed."""
        return self.epochs > 0 or self.recipe != PAPER


def bench_train(
    backbone: Backbone,
    usual: Backbone,
    suites: Mapping[str, Names],
    sizes: TrainSizes,
    patience: Patience,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Time steps of SoftCPT, or whole trainings.

    Parameters
    ----------
    backbone : Backbone
    usual : Backbone
        The same with PyTorch's own linear layers: of ``original``.
    suites : mapping of str to mapping of str to sequence of str
        Class names by task, by suite.
    sizes : TrainSizes
    patience : Patience
        For each way.
    tell : callable
        Told what is being done.

    Yields
    ------
    dict
        ``suite``; ``way``; ``runs``; ``step_s``, of a step of all these runs; ``steps_timed``; ``steps_per_epoch``;
        ``epoch_s``, an epoch's share of one run; ``speedup`` of that over the original, None where that is not timed;
        and, of ``cache`` alone, ``text_s``: class weights and the gradients of the learnables, nothing else.
    """
    for suite, names in suites.items():
        seconds: dict[str, tuple[int, float, int]] = {}  # runs, of a step, steps timed
        for way, runs in {"cache": 1, "together": sizes.runs}.items():
            if way == "cache" or runs > 1:
                tell(f"{suite}, {way}")
                method = _new_method(backbone, names, "fused", runs)
                seconds[way] = (runs, *_time_cached(backbone, method, sizes, patience))
        tell(f"{suite}, text alone")
        text_s = _time_text(_new_method(backbone, names, "fused"), backbone, patience)
        for way, (path, tower) in {"images": ("fused", backbone), "original": ("plain", usual)}.items():
            if not sizes.whole:
                tell(f"{suite}, {way}")
                seconds[way] = (1, _time_images(tower, _new_method(tower, names, path), patience), 1)
        count = sum(map(len, names.values())) * sizes.shots
        steps = max(1, count // sizes.new_recipe().batch_of(count))
        for way, (runs, step_s, timed) in seconds.items():
            yield {
                "suite": suite,
                "way": way,
                "runs": runs,
                "step_s": step_s,
                "text_s": text_s if way == "cache" else None,
                "steps_timed": timed,
                "steps_per_epoch": steps,
                "epoch_s": step_s * steps / runs,
                "speedup": seconds["original"][1] / (step_s / runs) if "original" in seconds else None,
            }


def _new_method(backbone: Backbone, names: Names, text_path: str, runs: int = 1) -> SoftCPT:
    return SoftCPT(make_problem(backbone, names, text_path), SoftCPTOptions(), runs)


def _start(method: SoftCPT) -> dict[str, Tensor]:
    """Learnables of one run, with the axis R in front."""
    start = method.start(torch.Generator().manual_seed(0))
    return {name: value.detach()[None].requires_grad_() for name, value in start.items()}


def _time_cached(backbone: Backbone, method: SoftCPT, sizes: TrainSizes, patience: Patience) -> tuple[float, int]:
    """Median seconds of a step of the real loop, and over how many steps at a time they were taken."""
    on_gpu = backbone.device.type == "cuda"
    num_classes = len(method.problem.class_names)
    rows = make_rows(backbone, num_classes, sizes.shots, seed=1)
    if not sizes.whole and not on_gpu:  # one step an epoch
        rows = FewShotRows(features=rows.features[: Recipe.batch_size], labels=rows.labels[: Recipe.batch_size])
    recipe, count = sizes.new_recipe(), len(rows.labels)
    steps = count // recipe.batch_of(count)
    epochs = recipe.epochs if sizes.whole else -(-STEPS_ON_GPU // steps) if on_gpu else 1

    def run(epochs: int) -> None:
        starts = [method.start(torch.Generator().manual_seed(seed)) for seed in range(method.runs)]
        how: dict[str, Any] = {"seed": 0, "task_sizes": method.problem.task_sizes}
        train(method, [TrainingState(start, rows, replace(recipe, epochs=epochs), **how) for start in starts])

    run(1)  # warm-up
    seconds = median_seconds(lambda: run(epochs), backbone.device, patience, warm_up=False)
    return seconds / (epochs * steps), epochs * steps


def _time_text(method: SoftCPT, backbone: Backbone, patience: Patience) -> float:
    """Median seconds of a step's text path, without images, loss, optimiser and log."""
    learnables = _start(method)
    pull = torch.randn_like(method.class_weights(learnables))  # (1, K, D)

    def step() -> None:
        torch.autograd.grad(method.class_weights(learnables), list(learnables.values()), pull)

    return median_seconds(step, backbone.device, patience)


def _time_images(backbone: Backbone, method: SoftCPT, patience: Patience) -> float:
    """Median seconds of a step that reads its images and encodes them."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(usable_cores()) as pool:
        dataset = draw_photos(Path(folder), Recipe.batch_size)
        images = _Images(paths=dataset.splits["train"].paths, folder=Path(folder), backbone=backbone, pool=pool)
        learnables = _start(method)
        optimizer = torch.optim.SGD(list(learnables.values()), lr=Recipe.lr, momentum=Recipe.momentum)
        labels = torch.arange(Recipe.batch_size, device=backbone.device) % len(method.problem.class_names)

        def step() -> None:
            _, gradients = method.gradients(learnables, Batch(images=images.features()[None], labels=labels[None]))
            for name, gradient in gradients.items():
                learnables[name].grad = gradient
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
        pixels = torch.from_numpy(np.stack(list(self.pool.map(self._read, self.paths))))  # (B, P, P, 3)
        ready = normalise(pixels.to(self.backbone.device), self.backbone.preprocess_spec)
        return self.backbone.encode_images(ready).clone()  # out of inference mode

    def _read(self, path: str) -> np.ndarray:
        image = open_rgb(self.folder / path)
        return random_pixels(image, self.backbone.resolution, key=path, view=1, views=ViewConfig(views=2))
