"""Class weights that depend on the image: what CoCoOp ends as.

Axes: R runs trained together, K classes of the task, C of a range, B images, L context tokens, H hidden units, W text
width, D joint dimension; "..." is the axis of runs, where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers.base import ALL, exp32
from cptlite.classifiers.state import Misfit, TensorClassifier, shown
from cptlite.errors import UsageError
from cptlite.text.layout import POSITIONS

if TYPE_CHECKING:
    from cptlite.text.encoder import TextEncoder

__all__ = ["ImageConditionedClassifier"]

PROMPTS_AT_ONCE = 512  # when scoring; on a processor 128 to 4096 take about the same time, measured


@dataclass(frozen=True, kw_only=True)
class ImageConditionedClassifier(TensorClassifier):
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

    kind: ClassVar[str] = "image-conditioned"
    axes: ClassVar[Mapping[str, str]] = {
        "context": "1 L W",
        "hidden_weight": "H D",
        "hidden_bias": "H",
        "shift_weight": "W H",
        "shift_bias": "W",
    }
    value_types: ClassVar[Mapping[str, type]] = {"logit_scale": float, "position": str}

    context: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    encode: Callable[[Tensor], Tensor]
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

    @classmethod
    def check_state(
        cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any], num_classes: int, embed_dim: int
    ) -> None:
        """Raise `Misfit` where tensors and values are not such as make up a classifier of K classes."""
        super().check_state(tensors, values, num_classes, embed_dim)
        if values["position"] not in POSITIONS:
            raise Misfit(f"'position' {shown(values['position'])} where one of {', '.join(POSITIONS)} belongs")

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        class_names: Sequence[str],
        text: Callable[[], TextEncoder],
    ) -> Self:
        """Put a classifier together around a text encoder; see `TensorClassifier.from_state`.

        Raises
        ------
        UsageError
            The text encoder is of another width or joint dimension, or on another device.
        """
        encoder, context, hidden = text(), tensors["context"], tensors["hidden_weight"]
        tower = encoder.tower
        wanted = (context.shape[-1], hidden.shape[-1], context.device)
        got = (tower.width, tower.projection.shape[1], tower.device)
        if got != wanted:
            raise UsageError(
                "wanted the text encoder of the backbone that the classifier was learned with: "
                f"width {wanted[0]}, joint dimension {wanted[1]}, on {wanted[2]}; "
                f"got width {got[0]}, joint dimension {got[1]}, on {got[2]}: give that one, on the same device"
            )
        parts: dict[str, Any] = {**tensors, **values}
        encode = encoder.prompts(class_names, context_length=context.shape[-2], position=values["position"])
        return cls(**parts, encode=encode, num_classes=len(class_names))
