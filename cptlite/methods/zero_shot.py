"""Zero-shot CLIP: class weights from hand-written templates.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import FewShotRows, LinearClassifier, Method, Problem

__all__ = ["ZeroShot", "zero_shot_weights"]


def zero_shot_weights(problem: Problem) -> Tensor:
    """Class weights from each task's template, or from the problem's templates.

    Returns
    -------
    Tensor of shape (K, D)
        normalise(text(template with the class name)); of several templates the normalised mean of these, as in the
        paper's ensembles.
    """
    owners = [task for task in problem.tasks for _ in task.class_names]
    ensemble = [[template] * len(owners) for template in problem.templates] or [[task.template for task in owners]]
    names = [name.replace("_", " ") for name in problem.class_names]
    weights = [
        F.normalize(problem.text.encode_texts(list(map(str.format, templates, names))), dim=-1)
        for templates in ensemble
    ]
    return F.normalize(torch.stack(weights).mean(dim=0), dim=-1) if len(weights) > 1 else weights[0]


class ZeroShot(Method):
    """The dataset's template, or the user's, filled with each class name; learns nothing."""

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows) -> LinearClassifier:
        """Return the templates' classifier; the rows are not looked at."""
        return LinearClassifier.from_prompts(zero_shot_weights(problem), problem.text.tower.logit_scale)
