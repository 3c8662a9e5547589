"""PLOT: several prompts a class, matched to an image's local features by optimal transport.

Chen et al., "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models" (ICLR 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, N prompts of a class, B images,
M places of an image, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import WHOLE_BATCH, Transport, TransportClassifier, exp32
from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptMethod, PromptOptions, new_context

__all__ = ["Plot"]


class Plot(PromptMethod):
    """One set of contexts per task; every class has a prompt around each of them.

    Wherever `PromptMethod` says images of shape (..., B, D), these are local features (..., B, M, D).

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
        Uses ``context_length`` and ``position``.
    variant : str
        Unused.
    num_prompts : int
        N, 4 in the paper.
    transport : Transport, optional
        The paper's by default.

    Notes
    -----
    w_kn = normalise(text([SOS] S_t(k)n class_k . [EOS])), logit = exp(logit_scale) * sum_mn P_mn x_m . w_kn with x_m
    the normalised local features of the image and P Sinkhorn's plan between them and the class's prompts, uniform on
    both sides, which takes part in no gradient. The pooled feature does not enter. T N L W numbers are learned, from
    noise: contexts that start alike would stay alike.

    The original has one task, crops every image anew each epoch, and stops the iterations by the mean over all images
    and classes of a batch, in testing too. Deviations: the plain view only, since each further view would take the same
    space again; with several tasks, that mean is over the classes of all of them; a finished classifier stops for each
    image and class on its own, so that scores do not depend on what else is scored; a plan that is not a number is an
    error, where the original leaves the batch out.
    """

    def __init__(
        self,
        problem: Problem,
        options: PromptOptions,
        variant: str = "",
        *,
        num_prompts: int = 4,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(problem)
        if options.context_init:
            raise UsageError(
                f"plot learns {num_prompts} contexts, which would stay alike if all started from "
                f"{options.context_init!r}: drop --context-init"
            )
        self.num_prompts, self.transport = num_prompts, transport or Transport()
        shape = (len(problem.tasks) * num_prompts, options.context_length, problem.text.tower.width)
        self.context = new_context(shape, "", problem.text)  # (T N, L, W)
        each = range(num_prompts)
        self._encode = problem.text.prompts(
            [name for name in problem.class_names for _ in each],
            context_length=options.context_length,
            contexts=[task * num_prompts + index for task in problem.class_tasks.tolist() for index in each],
            position=options.position,
        )

    def prompt_weights(self) -> Tensor:
        """Unit-length features of every prompt: Tensor of shape (..., K, N, D), float32."""
        features = self._encode(self.context)  # (..., K N, D)
        return F.normalize(features, dim=-1).unflatten(-2, (-1, self.num_prompts))

    def classifier_logits(self, images: Tensor) -> Tensor:
        """Scaled similarities with every class of every task, (..., B, M, D) to (..., B, K)."""
        return exp32(self.logit_scale) * self.transport.similarities(images, self.prompt_weights(), WHOLE_BATCH)

    @torch.no_grad()
    def classifier(self) -> TransportClassifier:
        """Return the classifier as it stands."""
        return TransportClassifier(
            prompts=self.prompt_weights(), transport=self.transport, logit_scale=self.logit_scale
        )
