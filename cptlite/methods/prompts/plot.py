"""PLOT: several prompts a class, matched to an image's local features by optimal transport.

Chen et al., "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models" (ICLR 2023); the plan by Cuturi,
"Sinkhorn Distances" (NeurIPS 2013).

Axes: R runs trained together, T tasks, K classes in task-major order, C of them, N prompts of a class, B images,
M places of an image, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.linear import ALL, exp32
from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptMethod, PromptOptions, new_context

__all__ = ["EACH_PAIR", "WHOLE_BATCH", "Plot", "Transport", "TransportClassifier"]

# Axes of (..., B, K, M) that stop iterating together.
WHOLE_BATCH, EACH_PAIR = (-3, -2, -1), (-1,)
SCORED_AT_ONCE = 2**24  # numbers of a plan B C M N, 64 MiB; a handful of such arrays are held


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How mass moves between the places of an image and the prompts of a class.

    Attributes
    ----------
    eps : float
        Weight of the plan's entropy; a larger one spreads the mass.
    iterations : int
        Sinkhorn iterations at most.
    threshold : float
        The iteration in which the scalings of the places change by less in the mean is the last.
    """

    eps: float = 0.1
    iterations: int = 100
    threshold: float = 1e-2

    def similarities(self, images: Tensor, prompts: Tensor, stop_over: tuple[int, ...]) -> Tensor:
        """Cosines of places and prompts, summed with the plan's weights; no gradient goes through the plan.

        Parameters
        ----------
        images : Tensor of shape (..., B, M, D)
            Raw local features.
        prompts : Tensor of shape (..., K, N, D)
            Unit length.
        stop_over : tuple of int
            As of `plan`.

        Returns
        -------
        Tensor of shape (..., B, K)
        """
        places = F.normalize(images.float(), dim=-1)
        cosines = torch.einsum("...bmd,...knd->...bkmn", places, prompts).contiguous()
        return (self.plan(cosines, stop_over) * cosines).sum(dim=(-2, -1))

    @torch.no_grad()
    def plan(self, cosines: Tensor, stop_over: tuple[int, ...]) -> Tensor:
        """Sinkhorn's plan between uniform marginals at a cost of 1 - cosine.

        Parameters
        ----------
        cosines : Tensor of shape (..., B, K, M, N)
        stop_over : tuple of int
            Axes of (..., B, K, M) over which the change is averaged. What has stopped stays as it is while others go
            on, so that nothing is shared along the remaining axes.

        Returns
        -------
        Tensor of shape (..., B, K, M, N)
            Sums over the places are 1/N; sums over the prompts come near 1/M.
        """
        kernel = torch.exp((cosines - 1) / self.eps)
        num_places, num_prompts = kernel.shape[-2:]
        rows, columns = torch.ones_like(kernel[..., 0]), torch.ones_like(kernel[..., 0, :])  # (..., M) and (..., N)
        running = torch.ones_like(rows.sum(dim=stop_over, keepdim=True), dtype=torch.bool)
        for _ in range(self.iterations):
            new_rows = 1 / num_places / (kernel @ columns[..., None])[..., 0]
            new_columns = 1 / num_prompts / (new_rows[..., None, :] @ kernel)[..., 0, :]
            change = (new_rows - rows).abs().mean(dim=stop_over, keepdim=True)
            rows, columns = torch.where(running, new_rows, rows), torch.where(running, new_columns, columns)
            running = running & (change >= self.threshold)
            # A GPU would have to be waited for, and the step could not be recorded: there the rest changes nothing.
            if not rows.is_cuda and not running.any():
                break
        return rows[..., None] * kernel * columns[..., None, :]


@dataclass(frozen=True, kw_only=True)
class TransportClassifier:
    """Learned prompts over local image features.

    Attributes
    ----------
    prompts : Tensor of shape (K, N, D)
        Unit length.
    transport : Transport
    logit_scale : float
        The *log* of the factor on the similarities.
    """

    prompts: Tensor
    transport: Transport
    logit_scale: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw local features (B, M, D) to scores (B, C); those of an image and a class depend on no other."""
        prompts = self.prompts[classes]  # (C, N, D)
        at_once = max(1, SCORED_AT_ONCE // max(1, prompts[..., 0].numel() * features.shape[1]))
        found = [self.transport.similarities(part, prompts, EACH_PAIR) for part in features.split(at_once)]
        return exp32(self.logit_scale) * torch.cat(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the attributes, those of the transport too, under their names."""
        return {
            "prompts": self.prompts.cpu().numpy(),
            "eps": np.array(self.transport.eps, np.float32),
            "iterations": np.array(self.transport.iterations),
            "threshold": np.array(self.transport.threshold, np.float32),
            "logit_scale": np.array(self.logit_scale, np.float32),
        }


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
