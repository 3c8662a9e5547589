"""The training loop: several runs learned as an axis of one forward, over cached rows in memory.

Runs differ in seed and rows alone. Each has its own batches, schedule, optimiser, log and checkpoint: stopped or alone,
a run goes the same way.

Axes: R runs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from cptlite.methods.base import PromptMethod
from cptlite.methods.batches import Batch
from cptlite.training.graph import RECORDED, Gradients, Step, record
from cptlite.training.state import TrainingState

__all__ = ["train"]

# Of a recorded step's losses and gradients from those of the step itself, by what the text tower computes in.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


def train(
    method: PromptMethod,
    states: Sequence[TrainingState],
    *,
    cuda_graphs: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train the learnables of several runs in place, until all runs are finished.

    Parameters
    ----------
    method : PromptMethod
    states : sequence of TrainingState
        Those that are finished are left as they are.
    cuda_graphs : bool
        Whether a GPU records a step and replays it, where that comes out the same; `TrainingState.graph` says what
        became of it.
    on_step : callable, optional
        Told the steps that all runs together have taken, after each; a GPU may not have done the last of them yet.

    Raises
    ------
    CptliteError
        The loss is not a number any more.
    """
    while running := [state for state in states if not state.finished]:
        # A run with fewer rows than a batch takes them all, and goes with those of as many rows, of each task.
        batch_shape = running[0].batch_size, running[0].task_rows
        group = [state for state in running if (state.batch_size, state.task_rows) == batch_shape]
        gradients_of: Step | None = None  # a step as it is or, on a GPU, as it was recorded
        while not any(state.finished for state in group):
            batch = Batch.join([state.next_batch() for state in group])
            if gradients_of is None:
                gradients_of, outcome = record(
                    partial(_gradients, method, group),
                    batch,
                    replays=min(state.steps_left for state in group),
                    tolerance=TOLERANCE[method.problem.text.tower.dtype],
                    enabled=cuda_graphs,
                )
                for state in group:
                    state.graph = RECORDED if state.graph == RECORDED else outcome  # of an earlier group
            losses, gradients = gradients_of(batch)
            for run, state in enumerate(group):
                state.step({name: value[run] for name, value in gradients.items()}, losses[run], num_runs=len(group))
            if on_step:
                on_step(sum(state.steps_taken for state in states))


def _gradients(method: PromptMethod, group: Sequence[TrainingState], batch: Batch) -> Gradients:
    """Losses (R,) and gradients (R, ...) of a group of runs at their learnables as they stand."""
    stacked = {}
    for name, value in group[0].learnables.items():
        runs = [state.learnables[name].detach() for state in group]
        axis = torch.stack(runs) if len(runs) > 1 else runs[0][None]  # (R, ...); of one run a view
        stacked[name] = axis.requires_grad_(value.requires_grad)
    return method.gradients(stacked, batch)
