"""ProGrad: learned contexts whose steps never go against what zero-shot CLIP knows.

Zhu et al., "Prompt-aligned Gradient for Prompt Tuning" (ICCV 2023).

Axes: T tasks, K classes in task-major order, B images, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem, PromptOptions, cross_entropy
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.templates import zero_shot_weights

__all__ = ["ProGrad", "project"]


class ProGrad(CoOp):
    """CoOp with one context per task and projected gradients.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
        As `CoOp`; L 16 from noise.
    variant : str
        Unused.
    temperature : float
        Of both softmaxes in the general direction; called T in the paper, 1.
    strength : float
        Share of the conflicting part taken out; lambda in the paper, 1.

    Notes
    -----
    a = gradient of the cross-entropy with the labels, b = gradient of temperature^2 times the cross-entropy between
    zero-shot and current softmax; where a . b < 0, a -= strength (a . b / ||b||) b / ||b||. T L W numbers are learned.
    Tasks are learned one at a time unless told otherwise, as published. Learned jointly, which is a deviation, every
    task's own context is projected on its own, where the original projects each parameter tensor of its one task: the
    same, since the projection does not see the length of b and is linear in a. The template is the dataset's own, where
    the original keeps a list of its own per dataset.
    """

    def __init__(
        self,
        problem: Problem,
        options: PromptOptions,
        variant: str = "",
        *,
        temperature: float = 1.0,
        strength: float = 1.0,
    ) -> None:
        super().__init__(problem, options, "task")
        self.temperature = temperature
        self.strength = strength
        self._anchors = zero_shot_weights(problem)  # (K, D)

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the projected gradient on the context; return the cross-entropy with the labels."""
        scores = self.mask_classes(self.classifier_logits(images), labels)  # (..., B, K)
        teacher = self.mask_classes(self.cosine_logits(images, self._anchors), labels)
        own = cross_entropy(scores, labels)  # (...)
        (gradient,) = torch.autograd.grad(own.sum(), self.context, retain_graph=True)
        (general,) = torch.autograd.grad(self._distance(scores, teacher).sum(), self.context)
        self.context.grad = project(gradient, general, self.strength)
        return own.detach()

    def _distance(self, scores: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy between the softmaxes of (..., B, K) logits, -inf at classes of other tasks in both."""
        known = F.softmax(teacher / self.temperature, dim=-1)
        current = F.log_softmax(scores / self.temperature, dim=-1).masked_fill(teacher.isneginf(), 0)
        return -(known * current).sum(dim=-1).mean(dim=-1) * self.temperature**2


def project(gradient: Tensor, general: Tensor, strength: float) -> Tensor:
    """Take out of each task's gradient what goes against its general direction.

    Parameters
    ----------
    gradient, general : Tensor of shape (..., T, L, W)
    strength : float
        1 leaves nothing of the conflicting part.

    Returns
    -------
    Tensor of shape (..., T, L, W)
    """
    direction = F.normalize(general.flatten(-2), dim=-1, eps=1e-30)  # (..., T, L * W); zero for tasks not in the batch
    conflict = (gradient.flatten(-2) * direction).sum(dim=-1, keepdim=True).clamp(max=0)
    return gradient - strength * (conflict * direction).view_as(gradient)
