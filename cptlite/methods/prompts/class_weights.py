"""Prompt methods whose class weights are the same for every image.

Axes: R runs trained together, K classes of all tasks, Q of them that are scored, B images, D joint dimension.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import LinearClassifier, exp32
from cptlite.methods.base import PromptMethod
from cptlite.methods.batches import Batch, Scored, take

__all__ = ["ClassWeightMethod"]


class ClassWeightMethod(PromptMethod):
    """A prompt method that ends as one weight a class."""

    @abstractmethod
    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights, differentiable in the learnables: Tensor of shape (R, K, D), float32."""

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q) alone, any where these are -1: Tensor of shape (R, Q, D)."""
        return take(self.class_weights(learnables), classes)

    def batch_weights(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Class weights of the classes that a batch scores: Tensor of shape (R, K or Q, D)."""
        if batch.classes is None:
            return self.class_weights(learnables)
        return self.picked_weights(learnables, batch.classes)

    def score(self, learnables: Mapping[str, Tensor], batch: Batch) -> list[Scored]:
        """Scores of a batch, part by part; see `PromptMethod.score`."""
        return self.score_weights(batch, self.batch_weights(learnables, batch))

    def score_weights(self, batch: Batch, weights: Tensor) -> list[Scored]:
        """Scores of a batch by unit-length weights of what it scores, (R, K or Q, D) or (K, D)."""
        return [
            part.scored(self.cosine_logits(batch.images[:, part.rows], weights[..., part.classes, :]))
            for part in self.parts(batch)
        ]

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
