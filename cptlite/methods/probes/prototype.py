"""Nearest class mean of normalised image features.

The idea of Snell et al., "Prototypical Networks for Few-shot Learning" (NeurIPS 2017), on frozen features. The SoftCPT
paper's ProtoNet is trained from scratch on the images, which is not the same and much weaker.

Axes: C classes, N rows, V views, D joint dimension.
"""

from __future__ import annotations

import torch

from cptlite.classifiers import LinearClassifier
from cptlite.methods.probes.estimator import FeatureClassifier, Fitted, TaskRows

__all__ = ["PrototypeClassifier"]


class PrototypeClassifier(FeatureClassifier):
    """One mean a class over all views of its training rows.

    Notes
    -----
    The score is -||x - m_k||^2 / 2 less what all classes share: x . m_k - ||m_k||^2 / 2, with x of unit length. A class
    without rows is never predicted. Validation rows are not looked at. C D numbers are learned.
    """

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Average the training rows of each class."""
        units = rows.units.mean(dim=1)  # (N, D)
        sums = units.new_zeros(rows.num_classes, units.shape[1]).index_add(0, rows.y, units)
        counts = torch.bincount(rows.y, minlength=len(sums))
        means = sums / counts.clamp(min=1)[:, None]  # (C, D)
        bias = (-means.square().sum(dim=-1) / 2).masked_fill(counts == 0, float("-inf"))
        return Fitted(
            classifier=LinearClassifier(weights=means, bias=bias, logit_scale=0.0, unit_length=True),
            num_parameters=means.numel(),
        )
