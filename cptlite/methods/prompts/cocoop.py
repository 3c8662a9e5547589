"""CoCoOp: a learned context that every image shifts.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models" (CVPR 2022).

Axes: R runs trained together, K classes of the task, B images, L context tokens, H hidden units, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cptlite.classifiers import ImageConditionedClassifier
from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptMethod, count_tokens, new_context, new_linear
from cptlite.methods.options import PromptOptions
from cptlite.options import option

__all__ = ["CoCoOp", "CoCoOpOptions"]


@dataclass(frozen=True, kw_only=True)
class CoCoOpOptions(PromptOptions):
    """Options of `CoCoOp`."""

    context_length: int = 4
    context_init: str = "a photo of a"
    reduction: int = option(16, "Hidden units of the net are the joint dimension over this.", least=1)


class CoCoOp(PromptMethod):
    """One context, shifted for each image by a two-layer net of its feature.

    Parameters
    ----------
    problem : Problem
        Of one task.
    options : CoCoOpOptions
    runs : int

    Raises
    ------
    UsageError
        The problem has several tasks.

    Notes
    -----
    x = normalise(image), S(x)_l = S_l + A_2 relu(A_1 x + a_1) + a_2 for every l, with H = D / 16 hidden units;
    w_k(x) = normalise(text([SOS] S(x) class_k . [EOS])), logit_k = exp(logit_scale) x . w_k(x). The net starts as
    PyTorch's linear layers do. L W + H (D + 1) + W (H + 1) numbers are learned.

    The original encodes the K prompts of one image after another, so its batches have one image. Here images are to the
    text encoder what runs are: each has one context, which its K prompts share, and all go through one forward.
    """

    def __init__(self, problem: Problem, options: CoCoOpOptions, runs: int = 1) -> None:
        super().__init__(problem, runs)
        if len(problem.tasks) > 1:
            raise UsageError(
                f"cocoop learns one task at a time, got {len(problem.tasks)} to learn jointly: "
                f"give --separate, its default, or one --dataset"
            )
        self.options = options
        self.context_length = count_tokens(options.context_length, options.context_init, problem.text)
        self._encode = problem.text.prompts(
            problem.class_names, context_length=self.context_length, position=options.position, runs=runs
        )

    @property
    def context_owners(self) -> dict[str, str]:
        """What the context is for, before an image shifts it."""
        return {"context": "all"}

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context`` (1, L, W) and the net: ``hidden`` (H, D) and ``shift`` (W, H), weights and biases."""
        text = self.problem.text
        dim, width = text.tower.projection.shape[1], text.tower.width
        hidden = max(1, dim // self.options.reduction)
        context = new_context((1, self.context_length, width), self.options.context_init, text, generator)
        layers = {"hidden": (hidden, dim), "shift": (width, hidden)}
        return {"context": context} | {
            f"{name}.{part}": value
            for name, shape in layers.items()
            for part, value in new_linear(shape, generator, text.tower.device).items()
        }

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Scaled cosines of raw images with their own class weights, (R, B, D) to (R, B, K)."""
        return self._classifier(learnables).logits(images)

    def classifier(self, learnables: Mapping[str, Tensor]) -> ImageConditionedClassifier:
        """Make the classifier of one run, whose learnables have no axis R."""
        return self._classifier({name: value.detach().clone() for name, value in learnables.items()})

    def _classifier(self, learnables: Mapping[str, Tensor]) -> ImageConditionedClassifier:
        return ImageConditionedClassifier(
            **{name.replace(".", "_"): value for name, value in learnables.items()},
            encode=self._encode,
            logit_scale=self.logit_scale,
            position=self.options.position,
            num_classes=len(self.problem.class_names),
        )
