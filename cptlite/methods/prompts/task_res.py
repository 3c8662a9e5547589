"""TaskRes: learned additions to the template's class weights; the text encoder runs once.

Yu et al., "Task Residual for Tuning Vision-Language Models" (CVPR 2023).

Axes: R runs trained together, K classes in task-major order, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.methods.base import Problem
from cptlite.methods.options import TemplateOptions
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.methods.templates import mean_text_features
from cptlite.options import option

__all__ = ["TaskRes", "TaskResOptions"]


@dataclass(frozen=True, kw_only=True)
class TaskResOptions(TemplateOptions):
    """Options of `TaskRes`."""

    strength: float = option(0.5, "Factor on the residuals; alpha in the paper.", least=0)


class TaskRes(ClassWeightMethod):
    """Zero-shot class weights with a residual of their own each.

    Parameters
    ----------
    problem : Problem
    options : TaskResOptions
    runs : int

    Notes
    -----
    w_k = normalise(t_k + strength * x_k) with t_k the template's text feature as it comes out of the encoder, and x
    from zeros on. K D numbers are learned. The original steps with Adam, whose weight decay enters the gradient; here
    AdamW keeps the two apart. The template is the dataset's own; the original keeps a list of its own per dataset.
    """

    def __init__(self, problem: Problem, options: TaskResOptions, runs: int = 1) -> None:
        super().__init__(problem, runs)
        self.options = options
        self._texts = mean_text_features(problem, options.templates, options.descriptions)  # (K, D)

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Residuals of zero, (K, D); nothing is drawn."""
        return {"residuals": nn.Parameter(torch.zeros_like(self._texts))}

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights: Tensor of shape (R, K, D), float32."""
        return F.normalize(self._texts + self.options.strength * learnables["residuals"], dim=-1)
