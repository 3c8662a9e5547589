"""MVLPT's text part: one context for all tasks, learned over the classes of all of them, and then adapted to each.

Shen et al., "Multitask Vision-Language Prompt Tuning" (WACV 2024), arXiv 2211.11720; code sIncerass/MVLPT @6fa518b.

Axes: R runs trained together, T tasks, K classes of all tasks in task-major order, Q of them that are scored, B images,
L context tokens, W text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import Tensor

from cptlite.errors import DataError
from cptlite.files import read_file, sha256_of
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, Part, Scored
from cptlite.methods.options import PinnedRun, PromptOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.options import option

__all__ = ["MCoOp", "MCoOpAdapt", "MCoOpAdaptOptions", "MCoOpOptions"]

LEARNED = "prompts.safetensors"  # of a run's folder


@dataclass(frozen=True, kw_only=True)
class MCoOpOptions(PromptOptions):
    """Options of `MCoOp`."""

    position: str = "middle"
    zero_other_tasks: bool = option(
        False, "Multiply logits of other tasks' classes by zero, as the released option for labels per task does."
    )


class MCoOp(CoOp):
    """CoOp with one context for all tasks and a loss over the classes of all tasks.

    Parameters
    ----------
    problem : Problem
    options : MCoOpOptions
    runs : int

    Notes
    -----
    w_k = normalise(text([SOS] U_1..U_L/2 class_k U_L/2+1..U_L . [EOS])); loss = cross-entropy over the classes of *all*
    tasks, exp(logit_scale) x . w_k, of which testing compares those of the image's own task. L W numbers are learned.

    With ``zero_other_tasks`` the loss is what the released ``--multi-task-label_pertask`` makes of it: logits of other
    tasks' classes are zero, so each still adds exp(0) to the denominator.

    Deviations: this is the text prompt alone, since visual prompts need the image tower in every step (their MCoOp, the
    other two being MVPT and MUPT). The last step is kept, where the original keeps the best epoch by validation and
    averages the contexts of three seeds before they are adapted. Where some classes alone are scored, the loss is over
    these.
    """

    options: MCoOpOptions

    def __init__(self, problem: Problem, options: MCoOpOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="all")

    def parts(self, batch: Batch) -> list[Part]:
        """One part: every image over the classes of all tasks, of those that are scored."""
        mask = None if batch.classes is None else batch.classes[:, None] < 0  # (R, 1, Q)
        return [Part(rows=slice(None), classes=slice(None), labels=batch.places, mask=mask)]

    def score_weights(self, batch: Batch, weights: Tensor) -> list[Scored]:
        """Scores of a batch by unit-length weights of what it scores, (R, K or Q, D)."""
        ((scores, labels),) = super().score_weights(batch, weights)
        if self.options.zero_other_tasks:
            tasks = self.problem.class_tasks
            classes = tasks if batch.classes is None else tasks[batch.classes.clamp(min=0)][:, None]  # (K,), (R, 1, Q)
            others = (tasks[batch.labels][..., None] != classes) & ~scores.isneginf()
            scores = scores.masked_fill(others, 0)  # (R, B, K or Q)
        return [(scores, labels)]


@dataclass(frozen=True, kw_only=True)
class MCoOpAdaptOptions(PromptOptions):
    """Options of `MCoOpAdapt`."""

    position: str = "middle"
    source: str = option(
        "", "Folder of a finished mvlpt-mcoop run to start from; by default one is learned first, on the same rows."
    )

    def pinned(self) -> Self:
        """Put behind the source ``@`` and the first digits of the SHA-256 of what it learned.

        Raises
        ------
        DataError
            It is no folder of a run that has learned something.
        """
        if not self.source or PinnedRun.read(self.source):
            return self
        try:
            content = read_file(Path(self.source) / LEARNED)
        except OSError as error:
            raise DataError(
                f"wanted a finished run to start from at {self.source!r}, found no {LEARNED} there "
                f"({error.strerror}): give --source the folder that cptlite train named as written"
            ) from None
        return replace(self, source=f"{self.source}@{sha256_of(content)[:16]}")


class MCoOpAdapt(CoOp):
    """CoOp with one context per task, which starts at the one that `MCoOp` learned of all tasks.

    Parameters
    ----------
    problem : Problem
    options : MCoOpAdaptOptions
    runs : int

    Notes
    -----
    U_t = U, then CoOp on task t: cross-entropy over the task's own classes. U is the context of the run that ``source``
    names, which may have been learned of other tasks; without one, `MCoOp` learns it first, on the same rows of all
    tasks with the same seed and recipe, in the run's folder ``source``. T L W numbers are learned at the end. Each
    task is adapted on its own unless told otherwise, as published. Deviations: those of `MCoOp`.
    """

    options: MCoOpAdaptOptions

    def __init__(self, problem: Problem, options: MCoOpAdaptOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, sharing="task")
