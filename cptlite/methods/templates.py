"""Class weights from hand-written templates, and from sentences about classes.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).

Axes: E templates, S sentences, K classes of all tasks, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.class_texts import ClassTexts

__all__ = ["mean_text_features", "template_features", "zero_shot_weights"]

BLOCK = 4096  # sentences that are laid out at a time


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


def zero_shot_weights(problem: Problem, templates: Sequence[str] = (), descriptions: str = "") -> Tensor:
    """Class weights from each task's own template, or from the templates given, and from sentences about the classes.

    Returns
    -------
    Tensor of shape (K, D)
        normalise(text(template with the class name)); of several texts the normalised mean of these, as in the
        paper's ensembles.
    """
    means = _mean_over_texts(problem, templates, descriptions, units=True)
    return F.normalize(means, dim=-1) if len(templates) > 1 or descriptions else means


def mean_text_features(problem: Problem, templates: Sequence[str] = (), descriptions: str = "") -> Tensor:
    """Mean over a class's texts of their features as they come out of the encoder: Tensor of shape (K, D), float32."""
    return _mean_over_texts(problem, templates, descriptions, units=False)


def _mean_over_texts(problem: Problem, templates: Sequence[str], descriptions: str, *, units: bool) -> Tensor:
    """Mean of each class over templates and sentences, (K, D): of their features, or of these at unit length."""
    features = template_features(problem, templates)  # (E, K, D)
    features = F.normalize(features, dim=-1) if units else features
    if not descriptions:
        return features.mean(dim=0) if len(features) > 1 else features[0]
    assert isinstance(descriptions, ClassTexts)
    sentences = descriptions.of_classes(problem.tasks)
    counts = torch.tensor(list(map(len, sentences)), device=features.device)  # (K,)
    classes = torch.arange(len(sentences), device=features.device).repeat_interleave(counts)  # (S,)
    texts, totals = [text for each in sentences for text in each], features.sum(dim=0)
    for start in range(0, len(texts), BLOCK):
        # Cut where the encoder ends, as CLIP's own tokenizer does when it is asked to.
        said = problem.text.encode_texts(texts[start : start + BLOCK], truncate=True)  # (S, D)
        totals.index_add_(0, classes[start : start + BLOCK], F.normalize(said, dim=-1) if units else said)
    return totals / (len(features) + counts)[:, None]
