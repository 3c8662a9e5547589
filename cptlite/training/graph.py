"""Steps of small suites are bound by kernel launches: record one as a CUDA graph and replay it.

Axes: R runs trained together, B images of a batch, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cptlite.methods.base import PromptMethod

__all__ = ["Backward", "record_backward"]

Backward = Callable[[Tensor, Tensor], Tensor]

WARM_UPS = 3  # PyTorch's own advice: libraries settle their workspaces before the capture
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


def record_backward(method: PromptMethod, images: Tensor, labels: Tensor) -> Backward | None:
    """Record what `PromptMethod.backward` does, where that is possible and comes out the same.

    Parameters
    ----------
    method : PromptMethod
        On a CUDA device. The memory of its learnables must not move while the recording is used.
    images : Tensor of shape (..., B, D)
    labels : Tensor of shape (..., B)
        A batch; the recording takes batches of this shape.

    Returns
    -------
    callable, optional
        Stands for ``method.backward``; gradients lie at the same addresses after every call. None where the capture
        failed or a replay differed from the step it was made of: then the caller goes on without.
    """
    images, labels = images.clone(), labels.clone()
    try:
        expected = _warm_up(method, images, labels)
        graph = torch.cuda.CUDAGraph()
        method.zero_grad(set_to_none=True)  # the captured backward then writes gradients instead of adding to them
        with torch.cuda.graph(graph):
            loss = method.backward(images, labels)
    except RuntimeError:
        method.zero_grad(set_to_none=True)
        torch.cuda.synchronize(images.device)
        return None

    def replay(new_images: Tensor, new_labels: Tensor) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return loss.clone()

    replay(images, labels)
    same = _agree(expected, _results(method, loss), TOLERANCE[method.problem.text.tower.dtype])
    return replay if same else None


def _warm_up(method: PromptMethod, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Run some steps on a stream of their own, as a capture wants it; loss and gradients of the last one."""
    stream = torch.cuda.Stream(images.device)
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            method.zero_grad(set_to_none=True)
            loss = method.backward(images, labels)
        results = _results(method, loss)
    torch.cuda.current_stream(images.device).wait_stream(stream)
    return results


def _results(method: PromptMethod, loss: Tensor) -> list[Tensor]:
    gradients = (parameter.grad for parameter in method.parameters())
    return [loss.clone(), *(gradient.clone() for gradient in gradients if gradient is not None)]


def _agree(expected: list[Tensor], got: list[Tensor], tolerance: float) -> bool:
    """Whether each pair differs by less than a share of the largest value."""
    pairs = zip(expected, got, strict=True)
    return all(bool((one - other).abs().max() <= tolerance * one.abs().max()) for one, other in pairs)
