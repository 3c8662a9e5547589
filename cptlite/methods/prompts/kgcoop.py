"""KgCoOp: learned contexts whose class weights stay near the hand-written template's.

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (CVPR 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, Q of them that are scored, L context tokens,
W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, cross_entropy
from cptlite.methods.options import PromptOptions, TemplateOptions
from cptlite.methods.prompts.class_terms import own_task_mean
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

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy plus the pull; shapes as in `PromptMethod.loss`."""
        weights = self.batch_weights(learnables, batch)  # (R, K or Q, D)
        scored = self.score_weights(batch, weights)
        anchors = self._anchors if batch.classes is None else self._anchors[batch.classes.clamp(min=0)]
        pull = 1 - own_task_mean(self.problem, batch, (weights * anchors).sum(dim=-1))  # (R,)
        return cross_entropy(scored) + self.options.strength * pull
