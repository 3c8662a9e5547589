"""One guard for the numbers of every method: what goes in, what was learned and what is scored.

Each check waits for the device once; none is made inside a step.

Axes: N rows, B images of a chunk, V views, M patches of an image, C classes of a task, K classes of all tasks, D joint
dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.cache import FeatureCache
from cptlite.config import RunConfig
from cptlite.errors import CptliteError
from cptlite.methods.base import Learned, Problem

__all__ = [
    "check_features",
    "check_learned",
    "check_scores",
    "check_text_tower",
    "naming_memory",
    "sound_features",
    "sound_scores",
]

SOUND_ROWS = 1024  # in double precision at a time
LARGEST = 1e4  # of what is learned: prompts, residuals and keys lie within 100, and diverge by powers of ten


def sound_features(features: Tensor) -> Tensor:
    """Which rows have a direction: (N, ..., D) to (N,), bool. Not so NaN, infinities, and vectors of length 0."""
    sound = features.new_empty(len(features), dtype=torch.bool)
    for part, said in zip(features.split(SOUND_ROWS), sound.split(SOUND_ROWS), strict=True):
        squares = part.double().square().sum(dim=-1)  # (n, ...)
        finite = squares.isfinite() & (squares > 0)
        said[:] = finite.view(len(part), math.prod(squares.shape[1:])).all(dim=-1)  # (n,)
    return sound


def sound_scores(scores: Tensor) -> Tensor:
    """Which rows can be ranked: (B, C) to (B,), bool.

    A class without rows may have the score -inf, as long as another class has a finite one.
    """
    wrong = scores.isnan() | scores.isposinf()  # (B, C)
    return ~wrong.any(dim=-1) & scores.isfinite().any(dim=-1)


def check_features(cache: FeatureCache, split: str, rows: np.ndarray, sound: Tensor) -> None:
    """Refuse cached rows that have no direction.

    Parameters
    ----------
    cache : FeatureCache
    split : str
    rows : ndarray of shape (N,), int
        Numbers of the rows in the split.
    sound : Tensor of shape (N,), bool
        As of `sound_features`.

    Raises
    ------
    CptliteError
        It says the first of them.
    """
    wrong = _first_wrong(sound)
    if wrong is not None:
        row = int(rows[wrong])
        raise CptliteError(
            f"wanted features that are finite and not all 0 in {cache.path}, got others in row {row} of split "
            f"{split!r} (image {cache.paths(split)[row]!r}): cache the dataset anew with --force, with weights whose "
            f"numbers are finite"
        )


def check_scores(cache: FeatureCache, split: str, rows: np.ndarray, sound: Tensor) -> None:
    """Refuse rows of a split, of shape (N,) whose scores, as of `sound_scores`, cannot be ranked."""
    wrong = _first_wrong(sound)
    if wrong is not None:
        raise CptliteError(
            f"wanted finite scores, got others for row {int(rows[wrong])} of split {split!r} of {cache.path}, whose "
            f"features are finite: give options nearer to the method's defaults"
        )


def check_text_tower(tower: TextTower) -> None:
    """Refuse a text encoder with weights that are not finite.

    Raises
    ------
    CptliteError
        It says which weight.
    """
    for name, weight in _weights(tower):
        if not weight.isfinite().all():
            raise CptliteError(
                f"wanted finite weights in the text encoder, got NaN or infinity in {name}: give a --backbone whose "
                f"weights are whole"
            )
    # The factor is computed in float32, and multiplies cosines.
    scale = tower.logit_scale
    if not (math.isfinite(scale) and 0 < float(np.exp(np.float64(scale))) < torch.finfo(torch.float32).max):
        raise CptliteError(
            f"wanted a logit_scale (a log; 4.6 in OpenAI's weights) whose exponential is finite in the text encoder, "
            f"got {scale:g}: give a --backbone whose weights are whole"
        )


def check_learned(learned: Learned, config: RunConfig) -> None:
    """Refuse what was learned where it is not finite, or too large to mean anything.

    Raises
    ------
    CptliteError
        It says which tensor.

    Notes
    -----
    The bias of a class without rows may be -inf. Of a method that is stepped with a learning rate, a number above
    `LARGEST` is a training that diverged: norms downstream may hide it, and the score is one of chance.
    """
    what, advice = f"what {config.method} learned is not right", "give options nearer to the method's defaults"
    if config.recipe:
        what = f"the training diverged in epoch {config.epochs} or before, with --lr {config.recipe.lr:g}"
        advice = "give a smaller --lr"
    for name, tensor in _numbers(learned):
        legal = tensor.isfinite() | (tensor.isneginf() if name.endswith("bias") else False)
        if not legal.all():
            raise CptliteError(f"{what}: {name} stopped being a number in row {_row(~legal)}: {advice}")
        if config.recipe and name in learned.learnables and (tensor.abs() > LARGEST).any():
            raise CptliteError(f"{what}: {name} holds {tensor.abs().max():g}, wanted up to {LARGEST:g}: {advice}")
    for task, numbers in learned.choices.items():
        if not all(map(math.isfinite, numbers.values())):
            raise CptliteError(f"{what}: it chose {dict(numbers)} for task {task!r}: {advice}")


def _first_wrong(sound: Tensor) -> int | None:
    return None if bool(sound.all()) else int(sound.logical_not().nonzero()[0, 0])


def _weights(tower: TextTower) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a text encoder, under the name that OpenAI's state dict has for it."""
    yield "token_embedding.weight", tower.token_embedding
    yield "positional_embedding", tower.positional_embedding
    yield "text_projection", tower.projection
    yield from tower.transformer.named_parameters("transformer")
    yield from tower.final_norm.named_parameters("ln_final")


def _numbers(learned: Learned) -> Iterator[tuple[str, Tensor]]:
    tensors: Mapping[str, Tensor] = learned.learnables | {
        f"the classifier's {name}": tensor for name, tensor in learned.classifier.tensors().items()
    }
    yield from ((name, tensor.detach()) for name, tensor in tensors.items() if tensor.is_floating_point())


def _row(wrong: Tensor) -> int:
    return int(wrong.nonzero()[0, 0]) if wrong.dim() else 0


@contextmanager
def naming_memory(problem: Problem, config: RunConfig, runs: int) -> Iterator[None]:
    """Turn the error of memory that ran out into one that says what to do."""
    try:
        yield
    except RuntimeError as error:  # PyTorch has a class of its own for the GPU's memory only
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise CptliteError(
            f"ran out of memory on {problem.text.tower.device} with --text-memory {config.text_memory:g} (GiB) for "
            f"{len(problem.class_names)} classes and {runs} run(s) at a time: give a smaller --text-memory"
        ) from None
