"""LASP's text half: a learned context whose class prompts classify texts as well as images.

Bulat and Tzimiropoulos, "LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language Models"
(CVPR 2023).

Axes: R runs trained together, T tasks, n classes that are scored, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, cross_entropy
from cptlite.methods.options import PromptOptions, ReferenceOptions
from cptlite.methods.prompts.text_to_text import TextToText
from cptlite.options import option

__all__ = ["LaspText", "LaspTextOptions"]


@dataclass(frozen=True, kw_only=True)
class LaspTextOptions(ReferenceOptions, PromptOptions):
    """Options of `LaspText`."""

    context_length: int = 4
    context_init: str = "a photo of a"
    templates: tuple[str, ...] = option((), "Reference prompt with {} for the class name, in place of LASP's 35.")
    strength: float = option(5.0, "Factor on the text-to-text loss.", least=0)
    correction: bool = option(True, "Learn a vector that is added to text features.")


class LaspText(TextToText):
    """CoOp with one context per task, a correction and LASP's text-to-text loss.

    Parameters
    ----------
    problem : Problem
    options : LaspTextOptions
    runs : int

    Notes
    -----
    loss = cross-entropy + strength * text-to-text loss, both as `TextToText` says. T L W + T D numbers are learned.

    Deviations, beside those of `TextToText`: the image tower's layer norms, which the released configuration trains
    too, are frozen, and one group of prompts is learned, as there. Learned jointly, which the original does not do,
    each image counts its own task's loss, over the classes of that task; where some classes alone are scored, over
    these. Names without images (its virtual classes) are left out.
    """

    options: LaspTextOptions

    def __init__(self, problem: Problem, options: LaspTextOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, templates=options.templates, correction=options.correction)

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy plus the text-to-text loss; shapes as in `PromptMethod.loss`."""
        weights = self.batch_weights(learnables, batch)  # (R, n, D)
        texts = self.text_to_text(batch, weights)  # (R,)
        return cross_entropy(self.score_weights(batch, weights)) + self.options.strength * texts
