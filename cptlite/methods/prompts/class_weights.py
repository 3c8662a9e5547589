"""Prompt methods whose class weights are the same for every image.

Axes: R runs trained together, K classes of all tasks, B images, D joint dimension.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier, exp32
from cptlite.methods.base import PromptMethod

__all__ = ["ClassWeightMethod"]


class ClassWeightMethod(PromptMethod):
    """A prompt method that ends as one weight a class."""

    @abstractmethod
    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights, differentiable in the learnables: Tensor of shape (R, K, D), float32."""

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Scaled cosines with every class of every task, (R, B, D) to (R, B, K)."""
        return self.cosine_logits(images, self.class_weights(learnables))

    def cosine_logits(self, images: Tensor, weights: Tensor) -> Tensor:
        """Scaled cosines of raw images (R, B, D) with unit-length weights (R, K, D) or (K, D): Tensor (R, B, K)."""
        return exp32(self.logit_scale) * F.normalize(images.float(), dim=-1) @ weights.mT

    @torch.no_grad()
    def classifier(self, learnables: Mapping[str, Tensor]) -> LinearClassifier:
        """Make the classifier of one run, whose learnables have no axis R."""
        weights = self.class_weights({name: value[None] for name, value in learnables.items()})
        return LinearClassifier.from_prompts(weights[0], self.logit_scale)
