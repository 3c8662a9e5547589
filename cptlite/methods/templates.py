"""Class weights from hand-written templates.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).

Axes: E templates, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem

__all__ = ["template_features", "zero_shot_weights"]


def template_features(problem: Problem, templates: Sequence[str] = ()) -> Tensor:
    """Text features of each task's own template, or of the templates given, with the class names.

    Returns
    -------
    Tensor of shape (E, K, D), float32
        E templates of each class, in most cases one; *not* unit length.
    """
    owners = [task for task in problem.tasks for _ in task.class_names]
    ensemble = [[template] * len(owners) for template in templates] or [[task.template for task in owners]]
    names = [name.replace("_", " ") for name in problem.class_names]
    return torch.stack([problem.text.encode_texts(list(map(str.format, each, names))) for each in ensemble])


def zero_shot_weights(problem: Problem, templates: Sequence[str] = ()) -> Tensor:
    """Class weights from each task's own template, or from the templates given.

    Returns
    -------
    Tensor of shape (K, D)
        normalise(text(template with the class name)); of several templates the normalised mean of these, as in the
        paper's ensembles.
    """
    weights = F.normalize(template_features(problem, templates), dim=-1)
    return F.normalize(weights.mean(dim=0), dim=-1) if len(weights) > 1 else weights[0]
