"""CoCoOp: a learned context that every image shifts.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models" (CVPR 2022).

Axes: R runs trained together, K classes of the task, C of a range, B images, L context tokens, H hidden units, W text
width, D joint dimension; "..." is the axis of runs, where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers.linear import ALL, exp32
from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptMethod, PromptOptions, new_context
from cptlite.text.encoder import PromptEncoder

__all__ = ["CoCoOp", "ImageClassifier"]

REDUCTION = 16  # of D, to the hidden units
PROMPTS_AT_ONCE = 512  # when scoring; on a processor 128 to 4096 take about the same time, measured


@dataclass(frozen=True, kw_only=True)
class ImageClassifier:
    """Class weights that depend on the image.

    Attributes
    ----------
    context : Tensor of shape (..., 1, L, W)
    hidden_weight, hidden_bias : Tensor of shape (..., H, D) and (..., H)
    shift_weight, shift_bias : Tensor of shape (..., W, H) and (..., W)
        The net from image features to what is added to the context.
    encode : callable
        From contexts (N, 1, L, W) to raw text features of the K class prompts around each, (N, K, D).
    logit_scale : float
        The *log* of the factor on the cosines.
    position : str
        Where the class name stands.
    num_classes : int
        K.
    """

    context: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    encode: PromptEncoder
    logit_scale: float
    position: str
    num_classes: int

    def weights(self, images: Tensor) -> Tensor:
        """Unit-length class weights as each raw image has them, (..., B, D) to (..., B, K, D)."""
        units = F.normalize(images.float(), dim=-1)
        hidden = F.relu(units @ self.hidden_weight.mT + self.hidden_bias[..., None, :])  # (..., B, H)
        shift = hidden @ self.shift_weight.mT + self.shift_bias[..., None, :]  # (..., B, W)
        contexts = self.context + shift[..., None, :]  # (..., B, L, W)
        features = self.encode(contexts.flatten(0, -3)[:, None])  # (R * B, K, D)
        return F.normalize(features, dim=-1).unflatten(0, contexts.shape[:-2])

    def logits(self, images: Tensor) -> Tensor:
        """Scaled cosines of raw images with their own class weights, (..., B, D) to (..., B, K)."""
        units = F.normalize(images.float(), dim=-1)
        return exp32(self.logit_scale) * (self.weights(images) @ units[..., None])[..., 0]

    @torch.no_grad()
    def scores(self, features: Tensor, classes: slice = ALL) -> Tensor:
        """From raw features (B, D) to scores of a range of classes, (B, C)."""
        # Prompts are packed once for every number of images: so all chunks have the same, the last one padded.
        size = max(1, min(len(features), PROMPTS_AT_ONCE // self.num_classes))
        chunks = max(1, math.ceil(len(features) / size))
        padded = F.pad(features, (0, 0, 0, chunks * size - len(features)))
        return torch.cat([self.logits(chunk)[:, classes] for chunk in padded.split(size)])[: len(features)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all but the text encoder under their names."""
        names = ("context", "hidden_weight", "hidden_bias", "shift_weight", "shift_bias")
        arrays = {name: getattr(self, name).cpu().numpy() for name in names}
        return {
            **arrays,
            "logit_scale": np.array(self.logit_scale, np.float32),
            "position": np.array(self.position),
        }


class CoCoOp(PromptMethod):
    """One context, shifted for each image by a two-layer net of its feature.

    Parameters
    ----------
    problem : Problem
        Of one task.
    options : PromptOptions
        Uses ``context_length``, ``context_init`` and ``position``; the paper starts from "a photo of a" (L 4).
    variant : str
        Unused.

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

    def __init__(self, problem: Problem, options: PromptOptions, variant: str = "") -> None:
        super().__init__(problem)
        if len(problem.tasks) > 1:
            raise UsageError(
                f"cocoop learns one task at a time, got {len(problem.tasks)} to learn jointly: "
                f"give --separate, its default, or one --dataset"
            )
        text = problem.text
        dim, width = text.tower.projection.shape[1], text.tower.width
        self.context = new_context((1, options.context_length, width), options.context_init, text)
        # Modules for their start and names alone: weights may have an axis of runs, which nn.Linear does not take.
        self.hidden = nn.Linear(dim, max(1, dim // REDUCTION)).to(text.tower.device)
        self.shift = nn.Linear(self.hidden.out_features, width).to(text.tower.device)
        self._position = options.position
        self._encode = text.prompts(
            problem.class_names, context_length=self.context.shape[1], position=options.position
        )

    def image_weights(self, images: Tensor) -> Tensor:
        """Unit-length class weights as each raw image has them, (..., B, D) to (..., B, K, D), float32."""
        return self._classifier(dict(self.named_parameters())).weights(images)

    def classifier_logits(self, images: Tensor) -> Tensor:
        """Scaled cosines of raw images with their own class weights, (..., B, D) to (..., B, K)."""
        return self._classifier(dict(self.named_parameters())).logits(images)

    def classifier(self) -> ImageClassifier:
        """Return the classifier as it stands."""
        return self._classifier({name: value.detach().clone() for name, value in self.named_parameters()})

    def _classifier(self, learnables: dict[str, Tensor]) -> ImageClassifier:
        return ImageClassifier(
            **{name.replace(".", "_"): value for name, value in learnables.items()},
            encode=self._encode,
            logit_scale=self.logit_scale,
            position=self._position,
            num_classes=len(self.problem.class_names),
        )
