"""Zero-shot CLIP: class weights from a hand-written template.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import FewShotRows, LinearClassifier, Method, Problem

__all__ = ["ZeroShot", "zero_shot_weights"]


def zero_shot_weights(problem: Problem) -> Tensor:
    """Return normalise(text(template of the task with the class name)), of shape (K, D)."""
    texts = [task.template.format(name.replace("_", " ")) for task in problem.tasks for name in task.class_names]
    return F.normalize(problem.text.encode_texts(texts), dim=-1)


class ZeroShot(Method):
    """The dataset's template filled with each class name; learns nothing."""

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows) -> LinearClassifier:
        """Return the template's classifier; the rows are not looked at."""
        return LinearClassifier.from_prompts(zero_shot_weights(problem), problem.text.tower.logit_scale)
