"""CoOp: learn the context words of class prompts.

Zhou et al., "Learning to Prompt for Vision-Language Models" (IJCV 2022); CA, CS and MT as named by SoftCPT
(Ding et al., Neurocomputing 603:128290, 2024).

Axes: T tasks, K classes in task-major order, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import Problem, PromptOptions, new_context
from cptlite.methods.prompts.class_weights import ClassWeightMethod

__all__ = ["CoOp"]


class CoOp(ClassWeightMethod):
    """Contexts learned directly: one for everything, one per task, or one per class.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
        Uses ``context_length``, ``context_init`` and ``position``.
    sharing : str
        ``all`` (CoOp-MT), ``task`` (CoOp-CA) or ``class`` (CoOp-CS).

    Notes
    -----
    w_k = normalise(text([SOS] S_c(k) class_k . [EOS])), with c(k) the context of class k. With one context per task or
    class, tasks that are learned jointly share nothing but the batches. L W numbers are learned for each context: one,
    T or K times.
    """

    def __init__(self, problem: Problem, options: PromptOptions, sharing: str) -> None:
        super().__init__(problem)
        num_classes = len(problem.class_names)
        owners = {
            "all": [0] * num_classes,
            "task": problem.class_tasks.tolist(),
            "class": list(range(num_classes)),
        }
        count = {"all": 1, "task": len(problem.tasks), "class": num_classes}[sharing]
        text = problem.text
        self.context = new_context((count, options.context_length, text.tower.width), options.context_init, text)
        self._encode = text.prompts(
            problem.class_names,
            context_length=self.context.shape[1],
            contexts=owners[sharing],
            position=options.position,
        )

    def class_weights(self) -> Tensor:
        """Unit-length class weights: Tensor of shape (K, D), float32."""
        return F.normalize(self._encode(self.context), dim=-1)
