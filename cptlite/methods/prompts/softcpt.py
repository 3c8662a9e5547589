"""SoftCPT: a meta network turns task names into prompt contexts, shared softly over tasks.

Ding et al., "Multi-task prompt tuning with soft context sharing for vision-language models" (Neurocomputing
603:128290, 2024; arXiv 2208.13474).

Axes: R runs trained together, T tasks, K classes in task-major order, Q of them that are scored, L context tokens of a
class prompt, M of a task prompt, Mc of a class-feature prompt, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.errors import UsageError
from cptlite.methods.base import Problem, count_tokens, new_context
from cptlite.methods.batches import take
from cptlite.methods.options import MethodOptions
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.options import option

__all__ = ["VARIANTS", "SoftCPT", "SoftCPTOptions"]

# Variant: (class features, one class-feature context per class, one task context per task).
VARIANTS = {
    "nata": (False, False, False),
    "nats": (False, False, True),
    "cata": (True, False, False),
    "cats": (True, False, True),
    "csta": (True, True, False),
    "csts": (True, True, True),
}


@dataclass(frozen=True, kw_only=True)
class SoftCPTOptions(MethodOptions):
    """Options of `SoftCPT`."""

    variant: str = option(
        "nata",
        "No, shared or specific class features (na, ca, cs), shared or specific task contexts (ta, ts).",
        choices=("nata", "nats", "cata", "cats", "csta", "csts"),
    )
    context_length: int = option(
        16, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    task_context_length: int = option(
        4, "Context tokens of a task prompt, M.", least=0, most=75, why="; the text encoder reads 77 tokens"
    )
    class_context_length: int = option(
        4, "Context tokens of a class-feature prompt, Mc.", least=0, most=75, why="; the text encoder reads 77 tokens"
    )
    position: str = option("end", "Where the class name stands.", choices=("end", "middle", "front"))
    task_context_init: str = option("", "Words to start the task context from, which set its length; else noise.")
    class_context_init: str = option("", "Words to start the class-feature context from, as the task context's.")
    sub_network: str = option(
        "lin", "Input of the meta network where there are class features.", choices=("lin", "linmean", "lincls")
    )
    freeze_class_context: bool = option(False, "Leave the class-feature context as it starts.")

    @property
    def released_steps(self) -> int:
        """One for each name under which the released trainer registers its only optimizer.

        These are the prompt learner, the task prompt learner and the sub-network, and the class prompt learner where it
        learns.
        """
        return 4 if VARIANTS[self.variant][0] and not self.freeze_class_context else 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_class_context and not VARIANTS[self.variant][0]:
            having = ", ".join(name for name, (has_class_features, *_) in VARIANTS.items() if has_class_features)
            raise UsageError(
                f"softcpt-{self.variant} has no class-feature context to freeze: drop --freeze-class-context, "
                f"or give --variant one of {having}"
            )


class SoftCPT(ClassWeightMethod):
    """Contexts of class prompts computed from task (and class) names by a linear meta network.

    Parameters
    ----------
    problem : Problem
    options : SoftCPTOptions
    runs : int

    Notes
    -----
    f_t = text([SOS] U_1..U_M name_t . [EOS]), g_k = text([SOS] V_1..V_Mc class_k . [EOS]), context S = input @ P
    reshaped to (L, W), w_k = normalise(text([SOS] S class_k . [EOS])). The input is f_t; with class features [g_k; f_t]
    (``lin``), their mean (``linmean``) or g_k alone (``lincls``). Gradients flow through both uses of the text
    encoder. f_t and g_k are *not* normalised. Learned are U of (M, W) or (T, M, W), V of (Mc, W) or (K, Mc, W) where
    there are class features, and P of (D, L W), or (2D, L W) with ``lin``.
    """

    def __init__(self, problem: Problem, options: SoftCPTOptions, runs: int = 1) -> None:
        super().__init__(problem, runs)
        self.options = options
        self.has_class_features, class_specific, task_specific = VARIANTS[options.variant]
        names, tasks, text = problem.class_names, problem.tasks, problem.text
        num_classes, num_tasks, width = len(names), len(tasks), text.tower.width
        self._encode = text.prompts(
            names,
            context_length=options.context_length,
            contexts=range(num_classes) if self.has_class_features else problem.class_tasks.tolist(),
            position=options.position,
            runs=runs,
        )
        length = count_tokens(options.task_context_length, options.task_context_init, text)
        self.task_shape = (num_tasks if task_specific else 1, length, width)
        contexts = range(num_tasks) if task_specific else None
        self._encode_tasks = text.prompts(
            [task.name for task in tasks], context_length=length, contexts=contexts, runs=runs
        )
        if self.has_class_features:
            length = count_tokens(options.class_context_length, options.class_context_init, text)
            self.class_shape = (num_classes if class_specific else 1, length, width)
            contexts = range(num_classes) if class_specific else None
            self._encode_classes = text.prompts(names, context_length=length, contexts=contexts, runs=runs)

    @property
    def context_owners(self) -> dict[str, str]:
        """What a context of the meta network's own prompts is for."""
        _, class_specific, task_specific = VARIANTS[self.options.variant]
        owners = {"task_context": "task" if task_specific else "all"}
        return owners | ({"class_context": "class" if class_specific else "all"} if self.has_class_features else {})

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``task_context`` (U), ``class_context`` (V) where there are class features, and ``projection`` (P)."""
        options, text = self.options, self.problem.text
        found = {"task_context": new_context(self.task_shape, options.task_context_init, text, generator)}
        if self.has_class_features:
            found["class_context"] = new_context(self.class_shape, options.class_context_init, text, generator)
            # Without a gradient the class features cost a forward a step, and nothing is kept for a backward.
            found["class_context"].requires_grad_(not options.freeze_class_context)
        dim, width = text.tower.projection.shape[1], text.tower.width
        inputs = 2 * dim if self.has_class_features and options.sub_network == "lin" else dim
        projection = torch.randn(inputs, options.context_length * width, generator=generator) * 0.02
        return {**found, "projection": nn.Parameter(projection.to(text.tower.device))}

    def contexts(self, learnables: Mapping[str, Tensor], classes: Tensor | None = None) -> Tensor:
        """Run the meta network: Tensor of shape (R, T, L, W), or with class features (R, K, L, W).

        Of some classes (R, Q) alone, where they are given and there are class features, (R, Q, L, W).
        """
        inputs = self._encode_tasks(learnables["task_context"])  # (R, T, D)
        if self.has_class_features:
            context = learnables["class_context"]
            if classes is None:
                class_features = self._encode_classes(context)  # (R, K, D)
                task_features = inputs[:, self.problem.class_tasks]  # (R, K, D)
            else:
                class_features = self._encode_classes.pick(context, classes)  # (R, Q, D)
                task_features = take(inputs, self.problem.class_tasks[classes.clamp(min=0)])  # (R, Q, D)
            if self.options.sub_network == "lincls":
                inputs = class_features
            elif self.options.sub_network == "linmean":
                inputs = (class_features + task_features) / 2
            else:
                inputs = torch.cat([class_features, task_features], dim=-1)  # (R, K or Q, 2D)
        return (inputs @ learnables["projection"]).unflatten(-1, (self.options.context_length, -1))

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights: Tensor of shape (R, K, D), float32."""
        return F.normalize(self._encode(self.contexts(learnables)), dim=-1)

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q), which alone are encoded where that is less: Tensor (R, Q, D)."""
        if not self._encode.picking_saves(classes.shape[1]):
            return super().picked_weights(learnables, classes)
        contexts = self.contexts(learnables, classes)
        return F.normalize(self._encode.pick(contexts, classes, each=self.has_class_features), dim=-1)
