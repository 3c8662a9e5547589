"""The pretended GPU sees what a real one would refuse or be waited for, and lets the rest pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretended_cuda import DEVICE, HostWaitsError, HostWorkError, MixedDevicesError, Pretended
from torch import Tensor

Act = Callable[[Tensor], object]


class Doubled(torch.autograd.Function):
    """Its backward makes a tensor where the gradient is, or on the processor."""

    @staticmethod
    def forward(ctx: object, x: Tensor, device: object) -> Tensor:
        ctx.device = device  # type: ignore[attr-defined]
        return 2 * x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        place = ctx.device or gradient.device  # type: ignore[attr-defined]
        return gradient * torch.full(gradient.shape, 2.0, device=place), None


def learn(x: Tensor, device: object = None) -> Tensor:
    """A few kinds of operations, and the gradient through all."""
    leaf = x.detach().requires_grad_()
    picked = Doubled.apply(leaf, device)[torch.arange(2, device=leaf.device)].half().float()  # type: ignore[no-untyped-call]
    normed = F.layer_norm(F.normalize(picked), picked.shape[-1:])
    mixed = F.scaled_dot_product_attention(*[normed[None, None]] * 3, is_causal=True)
    loss = F.cross_entropy(mixed[0, 0], torch.zeros(2, dtype=torch.int64, device=x.device)) * torch.tensor(2.0)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


FINE: dict[str, Act] = {
    "learn": learn,
    "factories": lambda x: x + torch.zeros(3, 4, device=x.device) + x.new_ones(4) + torch.ones_like(x),
    "number": lambda x: x * torch.tensor(2.0) + 3,
    "copy there": lambda x: x + torch.ones(4).to(x.device, non_blocking=True),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "views": lambda x: torch.cat([*x.split([1, 2]), x[None, 0]]).view(2, 8).mT,
    "sizes": lambda x: torch.arange(3, device=x.device).repeat_interleave(2, output_size=6) + x.shape[0],
    "device": lambda x: (x.device, x.is_cuda, x.is_cpu) == (DEVICE, True, False) or pytest.fail("not there"),
    "foreach": lambda x: torch._foreach_add_([x.clone()], torch.tensor(1.0)),
}
MIXED: dict[str, Act] = {
    "factory": lambda x: x + torch.zeros(4),
    "linear": lambda x: F.linear(x, torch.ones(2, 4)),
    "cat": lambda x: torch.cat([x, torch.zeros(1, 4)]),
    "backward": lambda x: learn(x, "cpu"),
    "index": lambda x: torch.zeros(5)[x.argmax(dim=-1)],
    "index_select": lambda x: x.index_select(0, torch.tensor(0)),
    "generator": lambda x: torch.rand(3, device=x.device, generator=torch.Generator()),
    "array": lambda x: x.numpy(),
    "asarray": np.asarray,
}
WAITING: dict[str, Act] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to another": lambda x: x.to(torch.zeros(1)),
    "nonzero": lambda x: torch.nonzero(x),
    "mask": lambda x: x[x > 0],
    "set by mask": lambda x: x.clone().__setitem__(x > 0, torch.ones((), device=x.device)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "copy there": lambda x: torch.ones(4).to(x.device),
    "copy back": lambda x: torch.empty(3, 4).copy_(x),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "list for an index": lambda x: x[:, [0, 1]],
    "sizes": lambda x: torch.arange(3, device=x.device).repeat_interleave(torch.arange(3, device=x.device)),
    "synchronize": lambda x: torch.cuda.synchronize(),
}
HOST_WORK: dict[str, Act] = {
    "draw": lambda x: torch.rand(4, generator=torch.Generator()),
    "copy there": lambda x: torch.ones(()).to(x.device, non_blocking=True),
    "arithmetic": lambda x: torch.arange(3) + 1,
}


@pytest.fixture
def x(cuda: Pretended) -> Tensor:
    return torch.randn(3, 4).to("cuda")


@pytest.mark.parametrize("name", FINE)
def test_what_a_gpu_does_by_itself_passes(cuda: Pretended, x: Tensor, name: str) -> None:
    before = len(cuda.waits)
    with cuda.step():
        FINE[name](x)
    assert len(cuda.waits) == before


def test_results_are_those_of_the_processor_and_claim_the_gpu(x: Tensor) -> None:
    found, wanted = learn(x), learn(x.cpu())
    assert (found.device, wanted.device) == (DEVICE, torch.device("cpu"))
    assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_both_places_are_refused(x: Tensor, name: str) -> None:
    with pytest.raises(MixedDevicesError):
        MIXED[name](x)


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_noted_and_refused_within_a_step(cuda: Pretended, x: Tensor, name: str) -> None:
    before = len(cuda.waits)
    WAITING[name](x)
    assert len(cuda.waits) > before
    with cuda.step(), pytest.raises(HostWaitsError):
        WAITING[name](x)


@pytest.mark.parametrize("name", HOST_WORK)
def test_host_work_is_refused_within_a_capture(cuda: Pretended, x: Tensor, name: str) -> None:
    with cuda.step():
        HOST_WORK[name](x)
    with cuda.step(level=2), pytest.raises(HostWorkError):
        HOST_WORK[name](x)


def test_a_tensor_of_no_elements_may_lie_on_the_host(cuda: Pretended) -> None:
    """`torch.utils.checkpoint` makes one to hang its inputs on, in some versions."""
    with cuda.step(level=2):
        assert torch.empty(0).device.type == "cpu"
