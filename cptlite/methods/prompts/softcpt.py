"""SoftCPT: a meta network turns task names into prompt contexts, shared softly over tasks.

Ding et al., "Multi-task prompt tuning with soft context sharing for vision-language models" (Neurocomputing
603:128290, 2024; arXiv 2208.13474).

Axes: T tasks, K classes in task-major order, L class-prompt, M task-prompt and Mc class-feature context tokens,
W text width, D joint dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptOptions, new_context
from cptlite.methods.prompts.class_weights import ClassWeightMethod

__all__ = ["SUB_NETWORKS", "VARIANTS", "SoftCPT"]

# Variant: (class features, one class-feature context per class, one task context per task).
VARIANTS = {
    "nata": (False, False, False),
    "nats": (False, False, True),
    "cata": (True, False, False),
    "cats": (True, False, True),
    "csta": (True, True, False),
    "csts": (True, True, True),
}
SUB_NETWORKS = ("lin", "linmean", "lincls")


class SoftCPT(ClassWeightMethod):
    """Contexts of class prompts computed from task (and class) names by a linear meta network.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
    variant : str
        One of `VARIANTS`.

    Notes
    -----
    f_t = text([SOS] U_1..U_M name_t . [EOS]), g_k = text([SOS] V_1..V_Mc class_k . [EOS]), context S = input @ P
    reshaped to (L, W), w_k = normalise(text([SOS] S class_k . [EOS])). The input is f_t; with class features [g_k; f_t]
    (``lin``), their mean (``linmean``) or g_k alone (``lincls``). Gradients flow through both uses of the text
    encoder. f_t and g_k are *not* normalised. Learned are U of (M, W) or (T, M, W), V of (Mc, W) or (K, Mc, W) where
    there are class features, and P of (D, L W), or (2D, L W) with ``lin``.
    """

    def __init__(self, problem: Problem, options: PromptOptions, variant: str = "nata") -> None:
        super().__init__(problem)
        if variant not in VARIANTS:
            raise UsageError(f"unknown variant {variant!r} of softcpt: give one of {', '.join(VARIANTS)}")
        if options.sub_network not in SUB_NETWORKS:
            raise UsageError(f"unknown sub-network {options.sub_network!r}: give one of {', '.join(SUB_NETWORKS)}")
        if options.context_init:
            raise UsageError("softcpt generates its class-prompt context: --context-init is for coop; drop it")
        if options.freeze_class_context and not VARIANTS[variant][0]:
            having = ", ".join(name for name, (has_class_features, *_) in VARIANTS.items() if has_class_features)
            raise UsageError(
                f"softcpt-{variant} has no class-feature context to freeze: drop --freeze-class-context, "
                f"or give --variant one of {having}"
            )
        self.sub_network = options.sub_network
        self.context_length = options.context_length
        self.has_class_features, class_specific, task_specific = VARIANTS[variant]
        self._init_task_prompts(options, task_specific)
        if self.has_class_features:
            self._init_class_prompts(options, class_specific)
        dim, width = problem.text.tower.projection.shape[1], problem.text.tower.width
        inputs = 2 * dim if self.has_class_features and self.sub_network == "lin" else dim
        start = torch.randn(inputs, self.context_length * width) * 0.02
        self.projection = nn.Parameter(start.to(problem.text.tower.device))
        self._encode = problem.text.prompts(
            problem.class_names,
            context_length=self.context_length,
            contexts=range(len(problem.class_names)) if self.has_class_features else problem.class_tasks.tolist(),
            position=options.position,
        )

    def _init_task_prompts(self, options: PromptOptions, task_specific: bool) -> None:
        text, tasks = self.problem.text, self.problem.tasks
        count = len(tasks) if task_specific else 1
        shape = (count, options.task_context_length, text.tower.width)
        self.task_context = new_context(shape, options.task_context_init, text)
        self._encode_tasks = text.prompts(
            [task.name for task in tasks],
            context_length=self.task_context.shape[1],
            contexts=range(len(tasks)) if task_specific else None,
        )

    def _init_class_prompts(self, options: PromptOptions, class_specific: bool) -> None:
        text, names = self.problem.text, self.problem.class_names
        count = len(names) if class_specific else 1
        shape = (count, options.class_context_length, text.tower.width)
        self.class_context = new_context(shape, options.class_context_init, text)
        # Without a gradient the class features cost a forward a step, and nothing is kept for a backward.
        self.class_context.requires_grad_(not options.freeze_class_context)
        self._encode_classes = text.prompts(
            names,
            context_length=self.class_context.shape[1],
            contexts=range(len(names)) if class_specific else None,
        )

    def contexts(self) -> Tensor:
        """Run the meta network: Tensor of shape (T, L, W), or (K, L, W) with class features."""
        task_features = self._encode_tasks(self.task_context)  # (T, D)
        inputs = task_features
        if self.has_class_features:
            inputs = self._mix(self._encode_classes(self.class_context), task_features)  # (K, D) or (K, 2D)
        return (inputs @ self.projection).unflatten(-1, (self.context_length, -1))

    def _mix(self, class_features: Tensor, task_features: Tensor) -> Tensor:
        """Sub-network input for each class from (K, D) and (T, D)."""
        if self.sub_network == "lincls":
            return class_features
        of_class = task_features[..., self.problem.class_tasks, :]  # (K, D)
        if self.sub_network == "linmean":
            return (class_features + of_class) / 2
        return torch.cat([class_features, of_class], dim=-1)  # (K, 2D)

    def class_weights(self) -> Tensor:
        """Unit-length class weights: Tensor of shape (K, D), float32."""
        return F.normalize(self._encode(self.contexts()), dim=-1)
