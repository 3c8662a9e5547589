"""A suite's tasks and few-shot rows for what is timed, with features made up around one centre per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from cptlite.backbones import Backbone
from cptlite.datasets.types import Task
from cptlite.methods.base import FewShotRows, Problem
from cptlite.text.encoder import TextEncoder

__all__ = ["make_problem", "make_rows"]

LENGTH = 10.0  # of a raw CLIP feature
SPREAD = 1.5  # length of what rows of one class differ by, relative to what classes do


def make_problem(backbone: Backbone, names: Mapping[str, Sequence[str]], text_path: str = "fused") -> Problem:
    """Tasks with the given class names."""
    tasks = tuple(
        Task(id=task, name=task.replace("/", " "), class_names=tuple(words), template="a photo of {}.", metric="acc1")
        for task, words in names.items()
    )
    return Problem(tasks=tasks, text=TextEncoder(backbone.text_tower, backbone.tokenizer, text_path))


def make_rows(backbone: Backbone, num_classes: int, shots: int, *, seed: int) -> FewShotRows:
    """``shots`` rows of every class, one view each; rows of another seed have the same centres."""
    dim = backbone.embed_dim
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0)).repeat_interleave(shots, dim=0)
    noise = torch.randn(len(centres), dim, generator=torch.Generator().manual_seed(seed))
    features = (centres + SPREAD * noise) * (LENGTH / dim**0.5)  # (N, D)
    labels = torch.arange(num_classes).repeat_interleave(shots)
    return FewShotRows(features=features[:, None].to(backbone.device), labels=labels.to(backbone.device))
