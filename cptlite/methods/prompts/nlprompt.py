"""NLPrompt: labels that optimal transport finds wrong are learned by a loss that noise does little to.

Pan et al., "NLPrompt: Noise-Label Prompt Learning for Vision-Language Models" (CVPR 2025); code qunovo/NLPrompt
@b36bc8e.

Axes: R runs trained together, T tasks, K classes in task-major order, c of a task, N training rows, n of a task, B
images, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.batches import Batch, Scored
from cptlite.methods.options import PromptOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.options import option

__all__ = ["NLPrompt", "NLPromptOptions", "couple", "robust_loss"]

LOOK_EVERY = 10  # iterations: whether they may stop
LEAST = 1e-300  # of a sum that is divided by


@dataclass(frozen=True, kw_only=True)
class NLPromptOptions(PromptOptions):
    """Options of `NLPrompt`."""

    eps: float = option(0.01, "Weight of the coupling's entropy; a larger one spreads the mass.", above=0)
    iterations: int = option(1000, "Sinkhorn iterations at most, in each epoch.", least=1)
    threshold: float = option(1e-6, "Error of the classes' shares at which the iterations stop.", least=0)


class NLPrompt(CoOp):
    """CoOp with one context per task, whose rows are sorted anew in each epoch by whether their label is believed.

    Parameters
    ----------
    problem : Problem
    options : NLPromptOptions
    runs : int

    Notes
    -----
    At the beginning of an epoch the rows of a task are coupled with its classes: P = log softmax(softmax(logits)), two
    softmaxes as released, and Sinkhorn's coupling for the cost -P, every row and every class of the same mass. A row
    whose largest entry is that of its label is believed: its loss is the cross-entropy; of the others it is 1 - p_y,
    which a wrong label can move by 1 at most. Believed rows come first in an epoch, then the others. T L W numbers are
    learned.

    Deviations: coupled are the plain views; a batch where both meet has both losses, each for its own rows, where the
    original makes batches of either kind; every row has a part in the coupling, which is the released budget of 1.
    Tasks are learned one at a time unless told otherwise, as published; jointly, each has its own coupling.
    """

    options: NLPromptOptions

    def __init__(self, problem: Problem, options: NLPromptOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")
        self._encode.plan_for(1)  # rows are marked run by run

    @torch.no_grad()
    def mark_rows(self, learnables: Mapping[str, Tensor], rows: FewShotRows) -> Tensor:
        """Mark the rows whose label is believed: Tensor of shape (N,), bool."""
        one = {name: value[None] for name, value in learnables.items()}
        logits, options = self.logits(one, rows.features[None, :, 0])[0], self.options  # (N, K)
        believed = torch.zeros_like(rows.labels, dtype=torch.bool)
        for start, stop in self.problem.class_ranges:
            own = (start <= rows.labels) & (rows.labels < stop)  # (N,)
            chances = F.softmax(logits[:, start:stop], dim=-1)
            coupling = couple(chances, own, eps=options.eps, iterations=options.iterations, threshold=options.threshold)
            believed |= own & (coupling.argmax(dim=-1) + start == rows.labels)
        return believed

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss of each row by its mark, the cross-entropy where there is none; shapes as in `PromptMethod.loss`."""
        return robust_loss(self.score(learnables, batch), batch.marks)


def couple(chances: Tensor, own: Tensor, *, eps: float, iterations: int, threshold: float) -> Tensor:
    """Couple rows with classes by entropic optimal transport.

    Parameters
    ----------
    chances : Tensor of shape (N, c)
        Probabilities of the classes; what is gained by a pair is their log softmax.
    own : Tensor of shape (N,), bool
        Rows that have a part in it, n of them; the others have no mass.
    eps : float
        Weight of the entropy.
    iterations : int
        At most.
    threshold : float
        Distance of the classes' shares from uniform ones at which they stop.

    Returns
    -------
    Tensor of shape (N, c), float64
        Rows add up to 1 / n; columns, once converged, to 1 / c.
    """
    gains = F.log_softmax(chances.double(), dim=-1) / eps
    of_row, of_class = own.double() / own.sum().clamp(min=1), 1 / chances.shape[1]  # (N,), mass
    # In logarithms: what rows and classes are scaled with, after one iteration from rows that are scaled alike.
    classes = -(gains + of_row.log()[:, None]).logsumexp(dim=0, keepdim=True)  # (1, c)
    rows = of_row.log()[:, None] - (gains + classes).logsumexp(dim=1, keepdim=True)  # (N, 1)
    running, done = torch.ones_like(own[0]), 1
    while done < iterations:
        # Scaled anew before each look, nothing under- or overflows between two of them, however small eps is.
        kernel = (gains + rows + classes).exp()
        running = running & ((kernel.sum(dim=0) - of_class).norm() >= threshold)
        if not rows.is_cuda and not running:  # a GPU would have to be waited for: there the rest changes nothing
            break
        u = torch.ones_like(of_row)
        for _ in range(min(LOOK_EVERY, iterations - done)):
            v = of_class / (u @ kernel).clamp(min=LEAST)
            u = of_row / (kernel @ v).clamp(min=LEAST)
            done += 1
        rows = torch.where(running, rows + u.log()[:, None], rows)
        classes = torch.where(running, classes + v.log(), classes)
    return (gains + rows + classes).exp()


def robust_loss(parts: Sequence[Scored], believed: Tensor | None) -> Tensor:
    """Mean over rows of the cross-entropy where the label is believed (R, B), else of 1 - p_y: Tensor of shape (R,)."""
    each = []
    for scores, labels in parts:
        logs = F.log_softmax(scores, dim=-1).gather(-1, labels[..., None])[..., 0]  # (R, b)
        each.append(logs)
    own = torch.cat(each, dim=-1)  # (R, B), of each row's label
    losses = -own if believed is None else torch.where(believed, -own, 1 - own.exp())
    return losses.mean(dim=-1)
