"""KgCoOp: learned contexts whose class weights stay near the hand-written template's.

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (CVPR 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, Q of them that are scored, B images, L context
tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, cross_entropy
from cptlite.methods.options import PromptOptions, TemplateOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.templates import zero_shot_weights
from cptlite.options import option

__all__ = ["KgCoOp", "KgCoOpOptions"]


@dataclass(frozen=True, kw_only=True)
class KgCoOpOptions(TemplateOptions, PromptOptions):
    """Options of `KgCoOp`."""

    context_length: int = 4
    context_init: str = "a photo of a"
    strength: float = option(8.0, "Factor on the pull towards the template.", least=0)


class KgCoOp(CoOp):
    """CoOp with one context per task and a pull towards zero-shot CLIP.

    Parameters
    ----------
    problem : Problem
    options : KgCoOpOptions
    runs : int

    Notes
    -----
    loss = cross-entropy + strength * (1 - mean over the task's classes of cos(w_k, zero-shot w_k)). T L W numbers are
    learned. One task has the original's loss, and tasks are learned one at a time unless told otherwise, as published.
    Learned jointly, which is a deviation, the pull is averaged over the images of a batch, each counting its own
    task's: the loss is then the mean of the tasks' own losses weighted by their share of the batch, exactly as the
    cross-entropy is, so tasks share no more than with CoOp-CA. Where some classes alone are scored, the pull too is the
    mean over these. The template is the dataset's own, where the original keeps a list of its own per dataset.
    """

    options: KgCoOpOptions

    def __init__(self, problem: Problem, options: KgCoOpOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")
        self._anchors = zero_shot_weights(problem, options.templates, options.descriptions)  # (K, D)
        members = F.one_hot(problem.class_tasks, len(problem.tasks)).float()
        self._shares = members / members.sum(dim=0)  # (K, T): a class's share of its task's mean

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy plus the pull; shapes as in `PromptMethod.loss`."""
        weights = self.batch_weights(learnables, batch)  # (R, K or Q, D)
        scored = self.score_weights(batch, weights)
        if batch.classes is None:
            pulls = 1 - (weights * self._anchors).sum(dim=-1) @ self._shares  # (R, T)
        else:
            pulls = self._picked_pulls(weights, batch.classes)
        pull = pulls.gather(-1, self.problem.class_tasks[batch.labels]).mean(dim=-1)  # (R,)
        return cross_entropy(scored) + self.options.strength * pull

    def _picked_pulls(self, weights: Tensor, classes: Tensor) -> Tensor:
        """Each task's pull (R, T), from weights (R, Q, D) of some classes (R, Q) of every task."""
        picks = classes.clamp(min=0)
        shares = self._shares[picks] * (classes >= 0)[..., None]  # (R, Q, T), of these classes but for a factor
        cosines = (weights * self._anchors[picks]).sum(dim=-1)  # (R, Q)
        return 1 - (cosines[:, None] @ (shares / shares.sum(dim=1, keepdim=True)))[:, 0]
