"""Tensors that claim to be on a GPU: a processor computes, and what a GPU would refuse or be waited for is made known.

A function mode answers for a tensor's device; a dispatch mode follows every operation of PyTorch, backward and
optimiser included. A tensor claims the GPU if its storage does. It gets there by `Tensor.to`, by a factory that is
given the device, or as the result of an operation on others that are there. As on a GPU:

- an operation on tensors of both places is refused, but for copies and for numbers (0-dim tensors of the processor in
  elementwise operations);
- what the host has to wait for is noted, and refused within a step: numbers read, sizes that depend on values, copies
  in either direction that are not `non_blocking`;
- while a step is captured, results on the processor and copies from there are refused too: a replay would not repeat
  them.

Below the dispatcher PyTorch sees a processor. So what it does for a GPU alone is not shown: its kernels, their
rounding, streams, and graphs, for which `Pretended.capture` takes the step again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cptlite.backbones import Backbone
from cptlite.backbones.backbone import PRECISIONS, set_precision
from cptlite.methods.batches import Batch
from cptlite.training.graph import Gradients, Step

__all__ = [
    "DEVICE",
    "PROCESSOR",
    "HostWaitsError",
    "HostWorkError",
    "MixedDevicesError",
    "Pretended",
    "moved",
    "pretend",
]

DEVICE, PROCESSOR = torch.device("cuda:0"), torch.device("cpu")
FREE, STEP, CAPTURE = range(3)

# Names of `aten` operations whose result or its size the host has to know; `is_nonzero` and `item` come to the first.
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "repeat_interleave"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
MOVES = (Tensor.to, Tensor.type_as, Tensor.cpu, Tensor.cuda)
# Elementwise, though not tagged so, or with a number among their tensors.
TAKES_NUMBERS = {"copy_", "fill_", "masked_fill", "masked_fill_", "where", "lift_fresh"}


class MixedDevicesError(AssertionError):
    """An operation got tensors of both places; no RuntimeError, which a recording would catch."""


class HostWaitsError(AssertionError):
    """Within a step, the host would have to wait for the GPU."""


class HostWorkError(AssertionError):
    """Within a capture, something is done on the host, or copied from there."""


class _Claims:
    """Which storages claim to be on the GPU, and what is allowed at the time."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.level = FREE
        self.ambient = PROCESSOR  # where what a C++ operation makes of nothing lies
        self.inside = False  # a function of PyTorch that was called from Python
        self._claims: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being given anew
        self._live = 1000

    def on_gpu(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._claims

    def claim(self, tensor: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
        self._claims[storage._cdata] = StorageWeakRef(storage)
        if len(self._claims) > 2 * self._live:
            self._claims = {key: weak for key, weak in self._claims.items() if not weak.expired()}
            self._live = max(1000, len(self._claims))

    def place(self, tensor: Tensor) -> torch.device:
        return DEVICE if self.on_gpu(tensor) else PROCESSOR

    def wait(self, why: str) -> None:
        self.waits.append(why)
        if self.level != FREE:
            raise HostWaitsError(f"the host would wait for the GPU: {why}")

    def copy(self, why: str, source: torch.device, target: torch.device, blocking: bool) -> None:
        if source == target:
            return
        if self.level == CAPTURE:
            raise HostWorkError(f"a copy between host and GPU in a capture: {why}")
        if blocking or target == PROCESSOR:  # into memory that is not pinned
            self.wait(f"{why} from {source} to {target}")


def _tensors(*nested: Any) -> list[Tensor]:
    """Tensors among arguments, and in lists and tables of them."""
    found = []
    for each in nested:
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (list, tuple)):
            found += _tensors(*each)
        elif isinstance(each, dict):
            found += _tensors(*each.values())
    return found


def _indexed(value: Any) -> Any:
    """``cuda`` is ``cuda:0``: PyTorch would ask the driver."""
    is_cuda = isinstance(value, torch.device) and value.type == "cuda" or isinstance(value, str) and value == "cuda"
    return DEVICE if is_cuda else value


class _Functions(TorchFunctionMode):
    """What Python asks a tensor or PyTorch."""

    def __init__(self, claims: _Claims) -> None:
        super().__init__()
        self.claims = claims

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        claims, named = self.claims, dict(named or {})
        tensors = _tensors(arguments, named)
        on_gpu = [tensor for tensor in tensors if claims.on_gpu(tensor)]
        for name, answer in {"device": DEVICE, "is_cuda": True, "is_cpu": False}.items():
            if on_gpu and function == getattr(Tensor, name).__get__:
                return answer
        if function in (Tensor.numpy, Tensor.__array__) and on_gpu:
            raise MixedDevicesError("a tensor of the GPU cannot be made an array: copy it to the host first")
        if function is Tensor.tolist and on_gpu:
            claims.wait("tolist")
        arguments, named = tuple(map(_indexed, arguments)), {key: _indexed(each) for key, each in named.items()}
        if function in MOVES:
            function, arguments, named = Tensor.to, arguments[:1], self._move(function, arguments, named)
        if function is Tensor.new_tensor and on_gpu:
            return torch.tensor(arguments[1], dtype=arguments[0].dtype).to(DEVICE)
        if function in (torch.tensor, torch.as_tensor) and named.get("device") == DEVICE:
            return function(*arguments, **{**named, "device": PROCESSOR}).to(DEVICE)
        outer = claims.ambient, claims.inside
        claims.ambient, claims.inside = DEVICE if on_gpu else PROCESSOR, True
        try:
            return function(*arguments, **named)
        finally:
            claims.ambient, claims.inside = outer

    def _move(self, function: Any, arguments: Any, named: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `Tensor.to` for a tensor that PyTorch takes to be on the processor."""
        tensor, *rest = arguments
        if function in (Tensor.cpu, Tensor.cuda):
            rest = [PROCESSOR if function is Tensor.cpu else DEVICE, *rest]
        if rest and isinstance(rest[0], Tensor):
            rest = [self.claims.place(rest[0]), rest[0].dtype, *rest[1:]]
        copy = named.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*rest, **named)
        here = self.claims.place(tensor)
        if device is None or device == here:
            device = None
        else:
            copy = True
        given = {"device": device, "dtype": dtype, "non_blocking": non_blocking, "copy": copy}
        return given if memory_format is None else {**given, "memory_format": memory_format}


class _Operations(TorchDispatchMode):
    """What PyTorch carries out."""

    def __init__(self, claims: _Claims) -> None:
        super().__init__()
        self.claims = claims

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = dict(named or {})
        name = operation.overloadpacket.__name__
        if torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd"):
            with self:  # of tensors of inference, what is made of other operations comes in one piece
                return operation.decompose(*arguments, **named)
        given = _tensors(arguments, named)
        on_gpu = [tensor for tensor in given if self.claims.on_gpu(tensor)]
        target = self._target(name, given, bool(on_gpu), named.get("device"))
        if named.get("generator") is not None and target == DEVICE:
            raise MixedDevicesError(f"{name} draws on the GPU from a generator of the processor")
        self._check(name, operation, arguments, named, given, on_gpu, target)
        if "device" in named:
            named["device"] = PROCESSOR
        with torch._C.DisableTorchFunction():
            known = {tensor.untyped_storage()._cdata for tensor in given}
            result = operation(*arguments, **named)
            new = [each for each in _tensors(result) if each.untyped_storage()._cdata not in known]
        if target == DEVICE:
            for tensor in new:
                self.claims.claim(tensor)
        elif self.claims.level == CAPTURE and any(tensor.ndim and tensor.numel() for tensor in new):
            raise HostWorkError(f"{name} on the host in a capture: a replay would not repeat it")
        return result

    def _target(self, name: str, given: list[Tensor], on_gpu: bool, device: torch.device | None) -> torch.device:
        """Where the result lies."""
        in_backward = torch._C._current_autograd_node() is not None and not self.claims.inside
        if name == "_to_copy" and device is not None and not in_backward:
            return DEVICE if device.type == "cuda" else PROCESSOR
        if on_gpu or (device is not None and device.type == "cuda"):
            return DEVICE
        # What C++ makes beside a tensor it makes where it takes that to be.
        beside = name != "scalar_tensor" and in_backward or self.claims.ambient == DEVICE
        return DEVICE if not given and beside else PROCESSOR

    def _check(
        self,
        name: str,
        operation: Any,
        arguments: Any,
        named: Mapping[str, Any],
        given: list[Tensor],
        on_gpu: list[Tensor],
        target: torch.device,
    ) -> None:
        claims = self.claims
        if name in ("_to_copy", "copy_"):
            source = claims.place(arguments[0] if name == "_to_copy" else arguments[1])
            target = target if name == "_to_copy" else claims.place(arguments[0])
            blocking = not (named.get("non_blocking") or (name == "copy_" and arguments[2:3] == (True,)))
            claims.copy(name, source, target, blocking and not (name == "copy_" and not arguments[1].ndim))
            return
        if not on_gpu:
            return
        elsewhere = [tensor for tensor in given if not claims.on_gpu(tensor)]
        if name in INDEXED and claims.on_gpu(arguments[0]):
            indices = _tensors(arguments[1])
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                claims.wait(f"{name} with a mask")
            if any(not claims.on_gpu(index) for index in indices):
                claims.copy(f"{name} with indices", PROCESSOR, DEVICE, True)
            elsewhere = [tensor for tensor in elsewhere if not any(tensor is index for index in indices)]
        numbers = torch.Tag.pointwise in operation.tags or name in TAKES_NUMBERS | INDEXED or "foreach" in name
        if any(tensor.ndim or not numbers for tensor in elsewhere):
            shapes = ", ".join(f"{tuple(tensor.shape)} on {claims.place(tensor)}" for tensor in given)
            raise MixedDevicesError(f"{name} got tensors of both places: {shapes}")
        if name in WAITS and not (name == "repeat_interleave" and named.get("output_size") is not None):
            claims.wait(name)


def moved(backbone: Backbone) -> Backbone:
    """Copy a backbone to the pretended GPU, as `load_backbone` does."""
    model = set_precision(deepcopy(backbone.model).to(DEVICE), PRECISIONS[backbone.precision])
    return replace(backbone, model=model)


class Pretended:
    """A GPU that is not there.

    Attributes
    ----------
    waits : list of str
        What the host would have waited for so far.
    """

    def __init__(self) -> None:
        self._claims = _Claims()

    @property
    def waits(self) -> list[str]:
        return self._claims.waits

    @contextmanager
    def entered(self) -> Iterator[Pretended]:
        """Follow what is done in the context."""
        with _Operations(self._claims), _Functions(self._claims):
            yield self

    @contextmanager
    def step(self, level: int = STEP) -> Iterator[None]:
        """Refuse what the host would wait for."""
        before = self._claims.level
        self._claims.level = max(before, level)
        try:
            yield
        finally:
            self._claims.level = before

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Allow waiting again."""
        before, self._claims.level = self._claims.level, FREE
        try:
            yield
        finally:
            self._claims.level = before

    def wait(self, *_: Any, **__: Any) -> None:
        """Stand in for `torch.cuda.synchronize`."""
        self._claims.wait("synchronize")

    def capture(self, step: Step, batch: Batch) -> tuple[Callable[[], None], Gradients]:
        """Stand in for `cptlite.training.graph.capture`: a replay takes the step again."""
        with self.step(CAPTURE):
            losses, gradients = step(batch)

        def replay() -> None:
            new_losses, new_gradients = step(batch)
            losses.copy_(new_losses)
            for name, value in new_gradients.items():
                gradients[name].copy_(value)

        return replay, (losses, gradients)

    def within(self, context: Callable[[], AbstractContextManager[None]], function: Callable[..., Any]) -> Any:
        """Put a function into one of the contexts."""

        def called(*arguments: Any, **named: Any) -> Any:
            with context():
                return function(*arguments, **named)

        return called

    def watched(self, record: Callable[..., Any]) -> Callable[..., Any]:
        """`cptlite.training.graph.record`, which looks at what a replay gives; before that, a method makes ready."""

        def recorded(step: Step, batch: Batch, **given: Any) -> Any:
            with self.between_steps():
                step(batch)
                return record(step, batch, **given)

        return recorded


def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Let there be a GPU as far as PyTorch and the package ask, and see to it that a training waits where it may."""
    from cptlite.training import graph, loop, state

    cuda = Pretended()
    for name in ("_lazy_init", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "pretended")
    monkeypatch.setattr(torch.cuda, "synchronize", cuda.wait)
    monkeypatch.setattr("cptlite.classifiers.store.find_device", torch.device)
    # Else `torch.autograd.grad` were a function like others, in which a backward's Python would not be followed.
    monkeypatch.setattr(torch.autograd, "has_torch_function", lambda _: False)
    # A checkpoint compares what was kept with what is computed again, by devices that it sees or does not.
    kinds = {"default": lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype}}
    monkeypatch.setattr("torch.utils.checkpoint._allowed_determinism_checks_to_fns", kinds)
    monkeypatch.setattr(graph, "capture", cuda.capture)
    monkeypatch.setattr("cptlite.training.loop.record", cuda.watched(graph.record))
    monkeypatch.setattr("cptlite.runs.learn.train", cuda.within(cuda.step, loop.train))
    read = cuda.within(cuda.between_steps, state.TrainingState._read_losses)
    monkeypatch.setattr(state.TrainingState, "_read_losses", lambda run: read(run))
    monkeypatch.setattr(state, "save_checkpoint", cuda.within(cuda.between_steps, state.save_checkpoint))
    return cuda
