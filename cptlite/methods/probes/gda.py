"""GDA: Gaussian discriminant analysis of the training rows, blended with the zero-shot scores; nothing is trained.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation" (ICLR 2024).

Axes: C classes of one task, N training rows, V views, D joint dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cptlite.classifiers import LinearClassifier
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.options import option

__all__ = ["GDA", "GDAOptions", "gaussian_weights"]

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
START_ALPHA = 1.0


@dataclass(frozen=True, kw_only=True)
class GDAOptions(TemplateOptions):
    """Options of `GDA`."""

    alpha: float | None = option(
        None, "Weight of the Gaussians' scores; by default chosen on validation rows.", least=0
    )


class GDA(TextClassifier):
    """One Gaussian a class, all of one covariance, added to the zero-shot scores.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    alpha : float, optional
        Weight of the Gaussians' scores. None is chosen on validation rows (and is in ``choices_``), or is 1 where `fit`
        gets none.

    Notes
    -----
    score = exp(logit_scale) x . t_k + alpha (x . w_k + b_k) with unit-length x and t_k, w_k = P mu_k,
    b_k = -log C - mu_k . w_k / 2. mu_k is the mean of a class's rows over all views, each of unit length; with R the
    rows less their class's mean, N' of them, S = R^T R / (N' - 1) and P = D inv((N' - 1) S + trace(S) I). alpha is each
    task's best of 1e-4, 1e-3, ..., 100 on validation rows, the first of equals. C (D + 1) numbers are solved for.

    Rows that do not differ within their class (one shot of one view) leave no covariance: then, as the released code's
    pseudo-inverse has it, P is 0 and the scores are those of zero-shot. A linear system is solved where the code
    inverts.
    """

    starts = {"alpha": START_ALPHA}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        alpha: float | None = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.alpha = alpha

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Solve for the Gaussians' weights and choose alpha."""
        assert rows.text is not None
        text = math.exp(rows.logit_scale) * rows.text  # (C, D)
        weights, bias = gaussian_weights(*rows.all_views(), rows.num_classes)
        alpha, choices = self.start_values()["alpha"], {}
        if self.chooses and len(rows.y_val):
            zero_shot, gaussian = rows.units_val @ text.T, rows.units_val @ weights.T + bias  # (M, C)
            hits = [int(((zero_shot + each * gaussian).argmax(dim=-1) == rows.y_val).sum()) for each in ALPHAS]
            alpha = ALPHAS[hits.index(max(hits))]
            choices = {"alpha": alpha}
        classifier = LinearClassifier(
            weights=text + alpha * weights, bias=alpha * bias, logit_scale=0.0, unit_length=True
        )
        return Fitted(classifier=classifier, num_parameters=weights.numel() + bias.numel(), choices=choices)


def gaussian_weights(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Solve for the weights (C, D) and biases (C,) of Gaussians with one covariance.

    Parameters
    ----------
    x, y : Tensor of shape (N', D) and (N',)
        Unit-length features of all views, and their classes.
    num_classes : int
        C.
    """
    count, dim = x.shape
    sizes = torch.bincount(y, minlength=num_classes).clamp(min=1)
    means = x.new_zeros(num_classes, dim).index_add(0, y, x) / sizes[:, None]  # (C, D)
    residuals = x - means[y]  # (N', D)
    scatter = residuals.T @ residuals  # (D, D), (N' - 1) S
    shrinkage = scatter.trace() / max(1, count - 1)
    if shrinkage <= torch.finfo(x.dtype).tiny:
        weights = torch.zeros_like(means)
    else:
        identity = torch.eye(dim, dtype=x.dtype, device=x.device)
        weights = dim * torch.linalg.solve(scatter + shrinkage * identity, means.T).T  # (C, D)
    bias = -math.log(num_classes) - (means * weights).sum(dim=-1) / 2
    return weights, bias
