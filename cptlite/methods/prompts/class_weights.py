"""Prompt methods whose class weights are the same for every image.

Axes: K classes of all tasks, B images, D joint dimension; "..." is the axis of runs trained together.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier, exp32
from cptlite.methods.base import PromptMethod

__all__ = ["ClassWeightMethod"]


class ClassWeightMethod(PromptMethod):
    """A prompt method that ends as one weight a class."""

    @abstractmethod
    def class_weights(self) -> Tensor:
        """Unit-length class weights, differentiable in the learnables: Tensor of shape (..., K, D), float32."""

    def classifier_logits(self, images: Tensor) -> Tensor:
        """Scaled cosines with every class of every task, (..., B, D) to (..., B, K)."""
        return self.cosine_logits(images, self.class_weights())

    def cosine_logits(self, images: Tensor, weights: Tensor) -> Tensor:
        """Scaled cosines of raw images (..., B, D) with unit-length weights (..., K, D): Tensor (..., B, K)."""
        return exp32(self.logit_scale) * F.normalize(images.float(), dim=-1) @ weights.mT

    @torch.no_grad()
    def classifier(self) -> LinearClassifier:
        """Return the classifier as it stands."""
        return LinearClassifier.from_prompts(self.class_weights(), self.logit_scale)
