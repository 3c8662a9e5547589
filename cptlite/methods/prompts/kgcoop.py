"""KgCoOp: learned contexts whose class weights stay near the hand-written template's.

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (CVPR 2023).

Axes: T tasks, K classes in task-major order, B images, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem, PromptOptions, cross_entropy
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.templates import zero_shot_weights

__all__ = ["KgCoOp"]


class KgCoOp(CoOp):
    """CoOp with one context per task and a pull towards zero-shot CLIP.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
        As `CoOp`; the paper starts from "a photo of a" (L 4).
    variant : str
        Unused.
    strength : float
        Factor on the pull, 8 in the paper.

    Notes
    -----
    loss = cross-entropy + strength * (1 - mean over the task's classes of cos(w_k, zero-shot w_k)). T L W numbers are
    learned. One task has the original's loss, and tasks are learned one at a time unless told otherwise, as published.
    Learned jointly, which is a deviation, the pull is averaged over the images of a batch, each counting its own
    task's: the loss is then the mean of the tasks' own losses weighted by their share of the batch, exactly as the
    cross-entropy is, so tasks share no more than with CoOp-CA. The template is the dataset's own, where the original
    keeps a list of its own per dataset.
    """

    def __init__(self, problem: Problem, options: PromptOptions, variant: str = "", *, strength: float = 8.0) -> None:
        super().__init__(problem, options, "task")
        self.strength = strength
        self._anchors = zero_shot_weights(problem)  # (K, D)
        members = F.one_hot(problem.class_tasks, len(problem.tasks)).float()
        self._shares = members / members.sum(dim=0)  # (K, T): a class's share of its task's mean

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy plus the pull; shapes as in `PromptMethod.loss`."""
        weights = self.class_weights()  # (..., K, D)
        scores = self.cosine_logits(images, weights)  # (..., B, K)
        classes = self.problem.class_tasks
        cosines = (weights * self._anchors).sum(dim=-1)  # (..., K)
        pulls = 1 - cosines @ self._shares  # (..., T)
        pull = pulls.gather(-1, classes[labels]).mean(dim=-1)
        return cross_entropy(self.mask_classes(scores, labels), labels) + self.strength * pull
