"""DAPT's text half: a learned context whose class weights are spread out.

Cho et al., "Distribution-Aware Prompt Tuning for Vision-Language Models" (ICCV 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, n of them that are scored, L context tokens,
W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, cross_entropy
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.class_terms import own_task_mean, scored_tasks
from cptlite.methods.prompts.coop import CoOp
from cptlite.options import option

__all__ = ["DaptText", "DaptTextOptions", "closeness"]

SHARPNESS = 2.0  # of the kernel; t in the paper


@dataclass(frozen=True, kw_only=True)
class DaptTextOptions(PromptOptions):
    """Options of `DaptText`."""

    strength: float = option(0.1, "Factor on how close class weights lie; beta_t in the paper.", least=0)


class DaptText(CoOp):
    """CoOp with one context per task and DAPT's inter-dispersion loss; no visual prompt.

    Parameters
    ----------
    problem : Problem
    options : DaptTextOptions
    runs : int

    Notes
    -----
    loss = cross-entropy + strength * mean over pairs i < j of a task's classes of exp(-2 ||w_i - w_j||^2); a task of
    one class has no pair. T L W numbers are learned.

    Deviations: no visual prompts, and so none of their term, mean((x - c_y)^2), which has no gradient where features
    are frozen. The original sets learning rates and strengths for each dataset, which suit visual prompts, and 50 to
    200 epochs by shots; here the recipe's hold for all of them, and the strength is the default of its code. Learned
    jointly, which the original does not do, pairs are of one task's classes alone, and each image counts its own
    task's; where some classes alone are scored, pairs are of these.
    """

    options: DaptTextOptions

    def __init__(self, problem: Problem, options: DaptTextOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy plus how close class weights lie; shapes as in `PromptMethod.loss`."""
        weights = self.batch_weights(learnables, batch)  # (R, n, D)
        near = closeness(weights, scored_tasks(self.problem, batch))  # (R, n)
        crowding = own_task_mean(self.problem, batch, near)  # (R,)
        return cross_entropy(self.score_weights(batch, weights)) + self.options.strength * crowding


def closeness(weights: Tensor, tasks: Tensor) -> Tensor:
    """Mean of exp(-2 ||w_i - w_j||^2) over the other classes of each class's task, 0 where there is none.

    Parameters
    ----------
    weights : Tensor of shape (R, n, D)
        Unit length.
    tasks : Tensor of shape (1 or R, n), int64

    Returns
    -------
    Tensor of shape (R, n)
    """
    others = tasks[:, :, None] == tasks[:, None]  # (1 or R, n, n)
    pairs = others & ~torch.eye(tasks.shape[1], dtype=torch.bool, device=tasks.device)
    squares = 2 - 2 * weights @ weights.mT  # (R, n, n)
    return ((-SHARPNESS * squares).exp() * pairs).sum(dim=-1) / pairs.sum(dim=-1).clamp(min=1)
