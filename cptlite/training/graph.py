"""Steps of small suites are bound by kernel launches: record one as a CUDA graph and replay it.

Axes: R runs trained together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cptlite.methods.batches import Batch

__all__ = ["RECORDED", "Gradients", "Step", "record"]

Gradients = tuple[Tensor, dict[str, Tensor]]
"""Loss of each run, (R,), and the gradient of each learnable, (R, ...), by name."""

Step = Callable[[Batch], Gradients]
"""From a batch to gradients; what is learned it reads."""

RECORDED = "recorded"
DEVICES = ("cuda",)  # whose steps can be recorded
LEAST_REPLAYS = 50  # a recording costs a handful of steps
WARM_UPS = 3  # PyTorch's own advice: libraries settle their workspaces before the capture


def record(
    step: Step,
    batch: Batch,
    *,
    replays: int,
    tolerance: float,
    enabled: bool = True,
) -> tuple[Step, str]:
    """Record a step, where that is possible, pays and comes out the same.

    Parameters
    ----------
    step : callable
        A step without a side effect. The memory of the learnables that it reads must not move while it is replayed.
    batch : Batch
        The first; the recording takes batches of its shapes.
    replays : int
        Steps that are to come.
    tolerance : float
        Largest difference of a replay from the step itself, as a share of the largest value.
    enabled : bool
        False never records.

    Returns
    -------
    step : callable
        The recording, whose gradients lie at the same addresses after every call; the step itself where there is none.
    outcome : str
        ``recorded``, ``off``, or ``not recorded: <reason>``; empty on a device that does not record.
    """
    if batch.images.device.type not in DEVICES:
        return step, ""
    if not enabled:
        return step, "off"
    if replays < LEAST_REPLAYS:
        return step, f"not recorded: too few steps ({replays} of {LEAST_REPLAYS})"
    # Captured on zeros, so that a replay that does nothing, or does not read its inputs, is seen to differ.
    inputs = batch.blank()
    try:
        replay, (losses, gradients) = capture(step, inputs)
    except RuntimeError as error:
        return step, f"not recorded: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"

    def recording(batch: Batch) -> Gradients:
        for static, value in zip(inputs.tensors, batch.tensors, strict=True):
            static.copy_(value)
        replay()
        return losses.clone(), gradients  # losses are kept until the epoch ends

    wanted, got = step(batch), recording(batch)
    if not _agree(wanted, got, tolerance):
        return step, "not recorded: a replay differed from the step that it was made of"
    return recording, RECORDED


def capture(step: Step, batch: Batch) -> tuple[Callable[[], None], Gradients]:
    """Capture a step as a CUDA graph.

    Parameters
    ----------
    step : callable
    batch : Batch
        A replay reads its tensors again.

    Returns
    -------
    replay : callable
        Takes the step again.
    outputs : tuple
        Where a replay leaves what the step returns.

    Raises
    ------
    RuntimeError
        The step does something that cannot be captured, such as waiting for the device.
    """
    device = batch.images.device
    try:
        with torch.cuda.device(device):  # streams and captures are of the current device, which need not be this one
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    step(batch)
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                outputs = step(batch)
    except RuntimeError:
        torch.cuda.synchronize(device)
        raise
    return graph.replay, outputs


def _agree(wanted: Gradients, got: Gradients, tolerance: float) -> bool:
    """Whether losses and each gradient differ by less than a share of the largest value; NaN agrees with nothing."""
    pairs = [(wanted[0], got[0]), *((value, got[1][name]) for name, value in wanted[1].items())]
    return all(bool((one - other).abs().max() <= tolerance * one.abs().max()) for one, other in pairs)
