"""CoOp: learn the context words of class prompts.

Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022); CA, CS and MT as named by SoftCPT
(Ding et al., Neurocomputing 603:128290, 2024).

Axes: R runs trained together, T tasks, K classes in task-major order, C contexts, L context tokens, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.methods.base import Problem, count_tokens, new_context
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.class_weights import ClassWeightMethod

__all__ = ["CoOp"]


class CoOp(ClassWeightMethod):
    """Contexts learned directly: one for everything, one per task, or one per class.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
    runs : int
    sharing : str
        ``all`` (CoOp-MT), ``task`` (CoOp-CA) or ``class`` (CoOp-CS).

    Notes
    -----
    w_k = normalise(text([SOS] S_c(k) class_k . [EOS])), with c(k) the context of class k. With one context per task or
    class, tasks that are learned jointly share nothing but the batches. L W numbers are learned for each context: one,
    T or K times.
    """

    def __init__(self, problem: Problem, options: PromptOptions, runs: int = 1, *, sharing: str = "task") -> None:
        super().__init__(problem, runs)
        self.options = options
        self.sharing = sharing
        num_classes = len(problem.class_names)
        self.num_contexts, context_of_class = {
            "all": (1, [0] * num_classes),
            "task": (len(problem.tasks), problem.class_tasks.tolist()),
            "class": (num_classes, list(range(num_classes))),
        }[sharing]
        self.context_length = count_tokens(options.context_length, options.context_init, problem.text)
        self._encode = problem.text.prompts(
            problem.class_names,
            context_length=self.context_length,
            contexts=context_of_class,
            position=options.position,
            runs=runs,
        )

    @property
    def context_owners(self) -> dict[str, str]:
        """What a context is for."""
        return {"context": self.sharing}

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context`` of shape (C, L, W)."""
        text = self.problem.text
        shape = (self.num_contexts, self.context_length, text.tower.width)
        return {"context": new_context(shape, self.options.context_init, text, generator)}

    def contexts(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Contexts that prompts are made around: Tensor of shape (R, C, L, W)."""
        return learnables["context"]

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights: Tensor of shape (R, K, D), float32."""
        return F.normalize(self._encode(self.contexts(learnables)), dim=-1)

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q), which alone are encoded where that is less: Tensor (R, Q, D)."""
        if not self._encode.picking_saves(classes.shape[1]):
            return super().picked_weights(learnables, classes)
        return F.normalize(self._encode.pick(self.contexts(learnables), classes), dim=-1)
