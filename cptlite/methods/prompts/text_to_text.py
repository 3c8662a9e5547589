"""What LASP and ArGue share: class prompts that classify hand-written ones too, and a learned correction.

Bulat and Tzimiropoulos, "LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language Models"
(CVPR 2023).

Axes: R runs trained together, T tasks, K classes in task-major order, n of them that are scored, Q of a batch
of some, G templates, P prompts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.classifiers import exp32
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, take
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.class_terms import own_task_mean, scored_tasks
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.templates import template_features
from cptlite.text.encoder import PromptEncoder

__all__ = ["TEMPLATES", "TextToText"]

TEMPLATES = (
    "a photo of a {}, a type of flower.",
    "a photo of a person doing {}.",
    "a centered satellite photo of {}.",
    "a photo of a {}, a type of aircraft.",
    "{} texture.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a pixelated photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a close-up photo of the {}.",
    "a low resolution photo of a {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
)
"""LASP's list, one of them twice as there; most are CLIP's own."""


class TextToText(CoOp):
    """CoOp with one context and one correction per task, and the loss that classifies texts by its prompts.

    Parameters
    ----------
    problem : Problem
    options : PromptOptions
    runs : int
    templates : sequence of str
        G, with {} for the class name; empty for `TEMPLATES`.
    correction : bool
        Whether a vector c_t of D numbers is learned, from zeros on, and added to a task's text features.

    Notes
    -----
    w_k = normalise(text([SOS] S_t class_k . [EOS]) + c_t); r_gk = normalise(text(template g with class_k));
    text-to-text loss = mean over templates and the classes of a task of the cross-entropy, over these classes k', of
    exp(logit_scale) r_gk . w_k': the learned prompts classify each reference.

    Deviations from LASP and ArGue: no noise is added to the references, which they do in about every other step, since
    a loss draws nothing here; the correction has the joint dimension, not the text width, which is the same in their
    backbone.
    """

    def __init__(
        self,
        problem: Problem,
        options: PromptOptions,
        runs: int = 1,
        *,
        templates: Sequence[str] = (),
        correction: bool = True,
    ) -> None:
        super().__init__(problem, options, runs, sharing="task")
        self.references = F.normalize(template_features(problem, templates or TEMPLATES), dim=-1)  # (G, K, D)
        self._corrected = correction

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context``, (T, L, W); ``correction`` is zeros, (T, D)."""
        found = super().start(generator)
        if self._corrected:
            tower = self.problem.text.tower
            zeros = torch.zeros(len(self.problem.tasks), tower.projection.shape[1], device=tower.device)
            found["correction"] = nn.Parameter(zeros)
        return found

    def correct(self, learnables: Mapping[str, Tensor], features: Tensor, tasks: Tensor) -> Tensor:
        """Unit-length text features, corrected: of prompts (R, P, D) of tasks (P,) or (R, P)."""
        if self._corrected:
            features = features + take(learnables["correction"], tasks.expand(len(features), -1))
        return F.normalize(features, dim=-1)

    def unit_features(
        self, encode: PromptEncoder, learnables: Mapping[str, Tensor], classes: Tensor | None = None
    ) -> Tensor:
        """Unit-length, corrected features of one prompt a class, (R, K, D); of some classes (R, Q) alone, (R, Q, D)."""
        context, tasks = learnables["context"], self.problem.class_tasks
        if classes is None:
            return self.correct(learnables, encode(context), tasks)
        if not encode.picking_saves(classes.shape[1]):
            return take(self.unit_features(encode, learnables), classes)
        return self.correct(learnables, encode.pick(context, classes), tasks[classes.clamp(min=0)])

    def name_weights(self, learnables: Mapping[str, Tensor], classes: Tensor | None = None) -> Tensor:
        """Those of prompts of the bare names."""
        return self.unit_features(self._encode, learnables, classes)

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights: Tensor of shape (R, K, D), float32."""
        return self.name_weights(learnables)

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q), which alone are encoded where that is less: Tensor (R, Q, D)."""
        return self.name_weights(learnables, classes)

    def text_to_text(self, batch: Batch, weights: Tensor) -> Tensor:
        """Text-to-text loss of unit-length weights (R, n, D) of what a batch scores: Tensor of shape (R,)."""
        scale, classes = exp32(self.logit_scale), batch.classes
        if classes is None:
            each = [
                told_apart(scale * weights[:, start:stop], self.references[None, :, start:stop])
                for start, stop in self.problem.class_ranges
            ]
            return own_task_mean(self.problem, batch, torch.cat(each, dim=-1))
        tasks, references = scored_tasks(self.problem, batch), self.references[:, classes.clamp(min=0)]  # (G, R, Q, D)
        others = tasks[:, :, None] != tasks[:, None]  # (R, Q, Q)
        return own_task_mean(self.problem, batch, told_apart(scale * weights, references.transpose(0, 1), others))


def told_apart(weights: Tensor, references: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Cross-entropy of each class's references over the weights of all classes, averaged over templates.

    Parameters
    ----------
    weights : Tensor of shape (R, n, D)
        Times the scale.
    references : Tensor of shape (1 or R, G, n, D)
    left_out : Tensor of shape (R, n, n), bool, optional
        Classes that a class is not told from; never itself.

    Returns
    -------
    Tensor of shape (R, n)
    """
    logits = references @ weights[:, None].mT  # (R, G, n, n)
    if left_out is not None:
        logits = logits.masked_fill(left_out[:, None], float("-inf"))
    return (logits.logsumexp(dim=-1) - logits.diagonal(dim1=-2, dim2=-1)).mean(dim=1)
