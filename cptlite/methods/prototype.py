"""Nearest class mean of normalised image features.

The idea of Snell et al., "Prototypical Networks for Few-shot Learning" (NeurIPS 2017), on frozen features. The SoftCPT
paper's ProtoNet is trained from scratch on the images, which is not the same and much weaker.

Axes: N rows, V views, K classes, D joint dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cptlite.methods.base import FewShotRows, LinearClassifier, Method, Problem

__all__ = ["Prototype"]


class Prototype(Method):
    """One mean a class over all cached views of its training rows.

    Notes
    -----
    The score is -||x - m_k||^2 / 2 less what all classes share: x . m_k - ||m_k||^2 / 2, with x of unit length.
    """

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows) -> LinearClassifier:
        """Average the training rows of each class; validation rows are not looked at."""
        rows, views, dim = train.features.shape
        units = F.normalize(train.features.float(), dim=-1).mean(dim=1)  # (N, D)
        sums = units.new_zeros(len(problem.class_names), dim).index_add(0, train.labels, units)
        counts = torch.bincount(train.labels, minlength=len(sums)).clamp(min=1)
        means = sums / counts[:, None]  # (K, D)
        self._size = means.numel()
        bias = -means.square().sum(dim=-1) / 2
        return LinearClassifier(weights=means, bias=bias, logit_scale=0.0, unit_length=True)
