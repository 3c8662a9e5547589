"""Zero-shot CLIP: class weights from hand-written templates.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).
"""

from __future__ import annotations

import torch

from cptlite.classifiers import LinearClassifier
from cptlite.methods.base import FewShotRows, Learned, Probe, Problem
from cptlite.methods.options import TemplateOptions
from cptlite.methods.templates import zero_shot_weights

__all__ = ["ZeroShot"]


class ZeroShot(Probe):
    """The dataset's template, or the user's, filled with each class name; learns nothing."""

    def __init__(self, options: TemplateOptions) -> None:
        self.options = options

    def fit(self, problem: Problem, train: FewShotRows, val: FewShotRows, generator: torch.Generator) -> Learned:
        """Return the templates' classifier; rows and generator are not looked at."""
        weights = zero_shot_weights(problem, self.options.templates, self.options.descriptions)
        classifier = LinearClassifier.from_prompts(weights, problem.text.tower.logit_scale)
        return Learned(classifier=classifier, num_parameters=0)
