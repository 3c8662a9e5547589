"""DePT on CoOp: a second, linear head takes what is particular to the training classes off the prompt.

Zhang et al., "DePT: Decoupled Prompt Tuning" (CVPR 2024); code Koorye/DePT @d4ff416, ``trainers/elp_coop.py``.

Axes: R runs trained together, T tasks, K classes in task-major order, Q of them that are scored, B images, L context
tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers import TwoHeadedClassifier
from cptlite.methods.base import Problem, new_linear
from cptlite.methods.batches import Batch, cross_entropy, take
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.options import option

__all__ = ["DePT", "DePTOptions"]

IMAGES, TEXTS = "image_film", "text_film"
"""Scale and bias, one a dimension, on what the linear head takes."""


@dataclass(frozen=True, kw_only=True)
class DePTOptions(PromptOptions):
    """Options of `DePT`."""

    linear_share: float = option(
        0.7, "Share of the linear head in loss and scores; lambda in the paper.", least=0, most=1
    )
    head_rate: float = option(6.5, "Learning rate of all but the context, over the context's.", above=0)


class DePT(CoOp):
    """CoOp with one context per task, and a linear head on raw image and text features.

    Parameters
    ----------
    problem : Problem
    options : DePTOptions
    runs : int

    Notes
    -----
    With g_k = text([SOS] S_t(k) class_k . [EOS]), w_k = normalise(g_k), raw image features x, and film(x) = a * x + b
    for images and for texts, a and b one number a dimension and task: cosines = exp(logit_scale) normalise(x) . w_k,
    linear = head . film(x) + bias. loss = (1 - share) * cross-entropy of the cosines + share * cross-entropy of the
    linear head, over the images and, once for every image, the text feature of its class. Scores are (1 - share) *
    cosines + share * linear of the image. T L W + 4 T D + K (D + 1) numbers are learned, all but the contexts at 6.5
    times the rate; a starts at ones, b at zeros, the head as PyTorch's linear layers do.

    Tasks are learned one at a time unless told otherwise, as published. Learned jointly, which is a deviation, each has
    its own films and classes, and an image is scored over its own task's. In scores film and head are one product.
    """

    options: DePTOptions

    def __init__(self, problem: Problem, options: DePTOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")

    @property
    def rate_factors(self) -> dict[str, float]:
        """All but the context have a rate of their own."""
        films = [f"{film}.{part}" for film in (IMAGES, TEXTS) for part in ("scale", "bias")]
        return dict.fromkeys([*films, "head.weight", "head.bias"], self.options.head_rate)

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context`` (T, L, W) and the head (K, D), (K,); films of ones and zeros, (T, D)."""
        tower, num_tasks = self.problem.text.tower, len(self.problem.tasks)
        dim = tower.projection.shape[1]
        found = super().start(generator)
        for film in (IMAGES, TEXTS):
            found[f"{film}.scale"] = nn.Parameter(torch.ones(num_tasks, dim, device=tower.device))
            found[f"{film}.bias"] = nn.Parameter(torch.zeros(num_tasks, dim, device=tower.device))
        shape = len(self.problem.class_names), dim
        head = new_linear(shape, generator, tower.device)
        return {**found, **{f"head.{part}": value for part, value in head.items()}}

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropies of both heads; shapes as in `PromptMethod.loss`."""
        texts = self._batch_features(learnables, batch)  # (R, K or Q, D)
        cosines = self.score_weights(batch, F.normalize(texts, dim=-1))
        linear = []
        for film, inputs in ((IMAGES, batch.images.float()), (TEXTS, take(texts, batch.places))):  # (R, B, D)
            weight, bias = self._head(learnables, film)
            if batch.classes is not None:
                weight, bias = take(weight, batch.classes), take(bias[..., None], batch.classes)[..., 0]
            for part in self.parts(batch):
                scores = inputs[:, part.rows] @ weight[:, part.classes].mT + bias[:, None, part.classes]
                linear.append(part.scored(scores))
        share = self.options.linear_share
        return (1 - share) * cross_entropy(cosines) + share * cross_entropy(linear)

    def logits(self, learnables: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Scores of both heads together, (R, B, D) to (R, B, K)."""
        weight, bias = self._head(learnables, IMAGES)
        linear = images.float() @ weight.mT + bias[:, None]  # (R, B, K)
        return (1 - self.options.linear_share) * super().logits(learnables, images) + self.options.linear_share * linear

    @torch.no_grad()
    def classifier(self, learnables: Mapping[str, Tensor]) -> TwoHeadedClassifier:  # type: ignore[override]
        """Make the classifier of one run, whose learnables have no axis R."""
        one = {name: value[None] for name, value in learnables.items()}
        weight, bias = self._head(one, IMAGES)
        return TwoHeadedClassifier(
            weights=self.class_weights(one)[0],
            linear_weights=weight[0],
            bias=bias[0],
            logit_scale=self.logit_scale,
            linear_share=self.options.linear_share,
        )

    def _head(self, learnables: Mapping[str, Tensor], film: str) -> tuple[Tensor, Tensor]:
        """Weights (R, K, D) and biases (R, K) of the head behind a film, which is each class's task's."""
        weight, tasks = learnables["head.weight"], self.problem.class_tasks
        scale, shift = (learnables[f"{film}.{part}"].index_select(1, tasks) for part in ("scale", "bias"))
        return weight * scale, (weight * shift).sum(dim=-1) + learnables["head.bias"]

    def _batch_features(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Raw text features of the classes that a batch scores: Tensor of shape (R, K or Q, D)."""
        context = learnables["context"]
        if batch.classes is None:
            return self._encode(context)
        if self._encode.picking_saves(batch.classes.shape[1]):
            return self._encode.pick(context, batch.classes)
        return take(self._encode(context), batch.classes)
