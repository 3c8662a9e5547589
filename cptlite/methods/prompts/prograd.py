"""ProGrad: learned contexts whose steps never go against what zero-shot CLIP knows.

Zhu et al., "Prompt-aligned Gradient for Prompt Tuning" (ICCV 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, B images, L context tokens, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, Scored, cross_entropy
from cptlite.methods.options import PromptOptions, TemplateOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.templates import zero_shot_weights
from cptlite.options import option

__all__ = ["ProGrad", "ProGradOptions", "project"]


@dataclass(frozen=True, kw_only=True)
class ProGradOptions(TemplateOptions, PromptOptions):
    """Options of `ProGrad`."""

    strength: float = option(1.0, "Share of the conflicting part that is taken out; lambda in the paper.", least=0)
    temperature: float = option(1.0, "Of both softmaxes in the general direction; T in the paper.", above=0)


class ProGrad(CoOp):
    """CoOp with one context per task and projected gradients.

    Parameters
    ----------
    problem : Problem
    options : ProGradOptions
    runs : int

    Notes
    -----
    a = gradient of the cross-entropy with the labels, b = gradient of temperature^2 times the cross-entropy between
    zero-shot and current softmax; where a . b < 0, a -= strength (a . b / ||b||) b / ||b||. T L W numbers are learned.
    Tasks are learned one at a time unless told otherwise, as published. Learned jointly, which is a deviation, every
    task's own context is projected on its own, where the original projects each parameter tensor of its one task: the
    same, since the projection does not see the length of b and is linear in a. The template is the dataset's own, where
    the original keeps a list of its own per dataset.
    """

    options: ProGradOptions

    def __init__(self, problem: Problem, options: ProGradOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")
        self._anchors = zero_shot_weights(problem, options.templates, options.descriptions)  # (K, D)

    def gradients(self, learnables: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with the labels of each run, (R,), and the projected gradient of the context."""
        anchors = self._anchors if batch.classes is None else self._anchors[batch.classes.clamp(min=0)]
        scored, taught = self.score(learnables, batch), self.score_weights(batch, anchors)
        loss = cross_entropy(scored)  # (R,)
        context = learnables["context"]
        (gradient,) = torch.autograd.grad(loss.sum(), context, retain_graph=True)
        (general,) = torch.autograd.grad(self._distance(scored, taught).sum(), context)
        return loss.detach(), {"context": project(gradient, general, self.options.strength)}

    def _distance(self, scored: Sequence[Scored], taught: Sequence[Scored]) -> Tensor:
        """Mean cross-entropy between the softmaxes of two lists of scores, -inf at the same places: (R,)."""
        temperature = self.options.temperature
        each = []
        for (scores, _), (teacher, _) in zip(scored, taught, strict=True):
            known = F.softmax(teacher / temperature, dim=-1)
            current = F.log_softmax(scores / temperature, dim=-1).masked_fill(teacher.isneginf(), 0)
            each.append(-(known * current).sum(dim=-1))  # (R, b)
        return torch.cat(each, dim=-1).mean(dim=-1) * temperature**2


def project(gradient: Tensor, general: Tensor, strength: float) -> Tensor:
    """Take out of each task's gradient what goes against its general direction.

    Parameters
    ----------
    gradient, general : Tensor of shape (R, T, L, W)
    strength : float
        1 leaves nothing of the conflicting part.

    Returns
    -------
    Tensor of shape (R, T, L, W)
    """
    direction = F.normalize(general.flatten(-2), dim=-1, eps=1e-30)  # (R, T, L * W); zero for tasks not in the batch
    conflict = (gradient.flatten(-2) * direction).sum(dim=-1, keepdim=True).clamp(max=0)
    return gradient - strength * (conflict * direction).view_as(gradient)
