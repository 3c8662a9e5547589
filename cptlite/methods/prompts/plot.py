"""PLOT: several prompts a class, matched to an image's patch features by optimal transport.

Chen et al., "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models" (ICLR 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, N prompts of a class, B images, M patches of an
image, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers import WHOLE_BATCH, Transport, TransportClassifier, exp32
from cptlite.methods.base import Problem, PromptMethod, new_context
from cptlite.methods.options import MethodOptions
from cptlite.options import option

__all__ = ["Plot", "PlotOptions"]


@dataclass(frozen=True, kw_only=True)
class PlotOptions(MethodOptions):
    """Options of `Plot`; its contexts start from noise, since contexts that start alike would stay alike."""

    context_length: int = option(
        16, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    position: str = option("end", "Where the class name stands.", choices=("end", "middle", "front"))
    num_prompts: int = option(4, "Prompts of a class, N.", least=1)
    eps: float = option(0.1, "Weight of the transport plan's entropy; a larger one spreads the mass.", above=0)
    iterations: int = option(100, "Sinkhorn iterations at most.", least=1)
    threshold: float = option(0.01, "Mean change of the scalings at which the iterations stop.", least=0)


class Plot(PromptMethod):
    """One set of contexts per task; every class has a prompt around each of them.

    Wherever `PromptMethod` says images of shape (R, B, D), these are patch features (R, B, M, D).

    Parameters
    ----------
    problem : Problem
    options : PlotOptions
    runs : int

    Notes
    -----
    w_kn = normalise(text([SOS] S_t(k)n class_k . [EOS])), logit = exp(logit_scale) * sum_mn P_mn x_m . w_kn with x_m
    the normalised patch features of the image and P Sinkhorn's plan between them and the class's prompts, uniform on
    both sides, which takes part in no gradient. The pooled feature does not enter. T N L W numbers are learned, from
    noise.

    The original has one task, crops every image anew each epoch, and stops the iterations by the mean over all images
    and classes of a batch, in testing too. Deviations: the plain view only, since each further view would take the same
    space again; with several tasks, that mean is over the classes of all of them; a finished classifier stops for each
    image and class on its own, so that scores do not depend on what else is scored; a plan that is not a number is an
    error, where the original leaves the batch out.
    """

    def __init__(self, problem: Problem, options: PlotOptions, runs: int = 1) -> None:
        super().__init__(problem, runs)
        self.options = options
        self.transport = Transport(eps=options.eps, iterations=options.iterations, threshold=options.threshold)
        num_prompts = options.num_prompts
        each = range(num_prompts)
        self._encode = problem.text.prompts(
            [name for name in problem.class_names for _ in each],
            context_length=options.context_length,
            contexts=[task * num_prompts + index for task in problem.class_tasks.tolist() for index in each],
            position=options.position,
            runs=runs,
        )

    @property
    def context_owners(self) -> dict[str, str]:
        """What a context is for."""
        return {"context": "prompt"}

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context`` of shape (T N, L, W)."""
        count = len(self.problem.tasks) * self.options.num_prompts
        shape = (count, self.options.context_length, self.problem.text.tower.width)
        return {"context": new_context(shape, "", self.problem.text, generator)}

    def prompt_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length features of every prompt: Tensor of shape (R, K, N, D), float32."""
        features = self._encode(learnables["context"])  # (R, K N, D)
        return F.normalize(features, dim=-1).unflatten(-2, (-1, self.options.num_prompts))

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Scaled similarities with every class of every task, (R, B, M, D) to (R, B, K)."""
        prompts = self.prompt_weights(learnables)  # (R, K, N, D)
        return exp32(self.logit_scale) * self.transport.similarities(images, prompts, WHOLE_BATCH)

    @torch.no_grad()
    def classifier(self, learnables: Mapping[str, Tensor]) -> TransportClassifier:
        """Make the classifier of one run, whose learnables have no axis R."""
        prompts = self.prompt_weights({name: value[None] for name, value in learnables.items()})[0]
        return TransportClassifier(prompts=prompts, transport=self.transport, logit_scale=self.logit_scale)
