"""Several prompts a class, matched to patch features by optimal transport: what PLOT ends as.

Chen et al., "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models" (ICLR 2023); the plan by Cuturi,
"Sinkhorn Distances" (NeurIPS 2013).

Axes: K classes of all tasks in task-major order, C of a range, N prompts of a class, B images, M patches of an image,
D joint dimension; "..." is the axis of runs, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import TensorClassifier

if TYPE_CHECKING:
    from cptlite.text.encoder import TextEncoder

__all__ = ["EACH_PAIR", "WHOLE_BATCH", "Transport", "TransportClassifier"]

# Axes of (..., B, K, M) that stop iterating together.
WHOLE_BATCH, EACH_PAIR = (-3, -2, -1), (-1,)
SCORED_AT_ONCE = 2**24  # numbers of a plan B C M N, 64 MiB; a handful of such arrays are held


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How mass moves between the patches of an image and the prompts of a class.

    Attributes
    ----------
    eps : float
        Weight of the plan's entropy; a larger one spreads the mass.
    iterations : int
        Sinkhorn iterations at most.
    threshold : float
        The iteration in which the scalings of the patches change by less in the mean is the last.
    """

    eps: float = 0.1
    iterations: int = 100
    threshold: float = 1e-2

    def similarities(self, images: Tensor, prompts: Tensor, stop_over: tuple[int, ...]) -> Tensor:
        """Cosines of patches and prompts, summed with the plan's weights; no gradient goes through the plan.

        Parameters
        ----------
        images : Tensor of shape (..., B, M, D)
            Raw patch features.
        prompts : Tensor of shape (..., K, N, D)
            Unit length.
        stop_over : tuple of int
            As of `plan`.

        Returns
        -------
        Tensor of shape (..., B, K)
        """
        patches = F.normalize(images.float(), dim=-1)
        cosines = torch.einsum("...bmd,...knd->...bkmn", patches, prompts).contiguous()
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
            Sums over the patches are 1/N; sums over the prompts come near 1/M.
        """
        kernel = torch.exp((cosines - 1) / self.eps)
        num_patches, num_prompts = kernel.shape[-2:]
        rows, columns = torch.ones_like(kernel[..., 0]), torch.ones_like(kernel[..., 0, :])  # (..., M) and (..., N)
        running = torch.ones_like(rows.sum(dim=stop_over, keepdim=True), dtype=torch.bool)
        for _ in range(self.iterations):
            new_rows = 1 / num_patches / (kernel @ columns[..., None])[..., 0]
            new_columns = 1 / num_prompts / (new_rows[..., None, :] @ kernel)[..., 0, :]
            change = (new_rows - rows).abs().mean(dim=stop_over, keepdim=True)
            rows, columns = torch.where(running, new_rows, rows), torch.where(running, new_columns, columns)
            running = running & (change >= self.threshold)
            # A GPU would have to be waited for, and the step could not be recorded: there the rest changes nothing.
            if not rows.is_cuda and not running.any():
                break
        return rows[..., None] * kernel * columns[..., None, :]


@dataclass(frozen=True, kw_only=True)
class TransportClassifier(TensorClassifier):
    """Learned prompts over patch features.

    Attributes
    ----------
    prompts : Tensor of shape (K, N, D)
        Unit length.
    transport : Transport
    logit_scale : float
        The *log* of the factor on the similarities.
    """

    kind: ClassVar[str] = "transport"
    axes: ClassVar[Mapping[str, str]] = {"prompts": "K N D"}
    value_types: ClassVar[Mapping[str, type]] = {
        "logit_scale": float,
        "eps": float,
        "iterations": int,
        "threshold": float,
    }

    prompts: Tensor
    transport: Transport
    logit_scale: float

    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw patch features (B, M, D) to scores (B, C); those of an image and a class depend on no other."""
        prompts = self.prompts[classes]  # (C, N, D)
        at_once = max(1, SCORED_AT_ONCE // max(1, prompts[..., 0].numel() * features.shape[1]))
        found = [self.transport.similarities(part, prompts, EACH_PAIR) for part in features.split(at_once)]
        return exp32(self.logit_scale) * torch.cat(found)

    def values(self) -> dict[str, Any]:
        """Return the scale and the transport's settings."""
        kinds = {name: kind for name, kind in self.value_types.items() if name != "logit_scale"}
        transport = {name: kind(getattr(self.transport, name)) for name, kind in kinds.items()}
        return {"logit_scale": float(self.logit_scale), **transport}

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        class_names: Sequence[str],
        text: Callable[[], TextEncoder],
    ) -> Self:
        """Put a classifier together; see `TensorClassifier.from_state`."""
        transport = {name: value for name, value in values.items() if name != "logit_scale"}
        return cls(**tensors, logit_scale=values["logit_scale"], transport=Transport(**transport))
