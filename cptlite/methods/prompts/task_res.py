"""TaskRes: learned additions to the template's class weights; the text encoder runs once.

Yu et al., "Task Residual for Tuning Vision-Language Models" (CVPR 2023).

Axes: K classes in task-major order, D joint dimension; "..." is the axis of runs trained together, where there is one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.methods.base import Problem, PromptOptions
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.methods.templates import template_features

__all__ = ["TaskRes"]


class TaskRes(ClassWeightMethod):
    """Zero-shot class weights with a residual of their own each.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
        Unused: there is no context.
    variant : str
        Unused.
    strength : float
        Factor on the residuals; alpha in the paper, 0.5.

    Notes
    -----
    w_k = normalise(t_k + strength * x_k) with t_k the template's text feature as it comes out of the encoder, and x
    from zeros on. K D numbers are learned. The original steps with Adam, whose weight decay enters the gradient; here
    AdamW keeps the two apart. The template is the dataset's own; the original keeps a list of its own per dataset.
    """

    def __init__(self, problem: Problem, options: PromptOptions, variant: str = "", *, strength: float = 0.5) -> None:
        super().__init__(problem)
        self.strength = strength
        self._texts = template_features(problem).mean(dim=0)  # (K, D)
        self.residuals = nn.Parameter(torch.zeros_like(self._texts))

    def class_weights(self) -> Tensor:
        """Unit-length class weights: Tensor of shape (..., K, D), float32."""
        return F.normalize(self._texts + self.strength * self.residuals, dim=-1)
