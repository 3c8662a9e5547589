"""Packed frozen layers against PyTorch's own, and the rule that says which of them run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_fakes import tiny_clip

import cptlite.environment
from cptlite.backbones import linear, load_backbone
from cptlite.backbones.linear import FrozenLinear, attend, find_linear_backend, runnable_backends
from cptlite.errors import UsageError

CPU = torch.device("cpu")
INFO = "processor\t: 0\nvendor_id\t: {}\nmodel name\t: Some CPU\n"


@pytest.fixture
def vendor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a processor of another vendor's in."""
    (tmp_path / "cpuinfo").write_text(INFO.format(request.param))
    monkeypatch.setattr(cptlite.environment, "CPU_INFO", tmp_path / "cpuinfo")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 24), (37, 24), (2, 5, 24), (0, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_is_the_layer(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight, bias, pull = draw(48, 24).to(dtype), draw(48, seed=1).to(dtype), draw(*shape[:-1], 48, seed=3).to(dtype)
    results = []
    for backend in runnable_backends(CPU, dtype):
        x = draw(*shape, seed=2).to(dtype).requires_grad_()
        y = FrozenLinear(weight, bias, backend)(x)
        (gradient,) = torch.autograd.grad(y, x, pull)
        results.append((y.detach(), gradient))
        with torch.no_grad():
            assert torch.equal(FrozenLinear(weight, bias, backend)(x), y)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for given in results[1:]:
        torch.testing.assert_close(given, results[0], rtol=tolerance, atol=10 * tolerance)


def test_rows_that_are_not_side_by_side() -> None:
    weight, bias = draw(8, 6), draw(8)
    for backend in runnable_backends(CPU, torch.float32):
        layer = FrozenLinear(weight, bias, backend)
        torch.testing.assert_close(layer(draw(6, 5).T), draw(6, 5).T @ weight.T + bias)


@pytest.mark.parametrize(
    ("vendor", "dtype", "wanted"),
    [
        ("AuthenticAMD", torch.float32, "onednn"),
        ("AuthenticAMD", torch.bfloat16, "onednn"),
        ("GenuineIntel", torch.float32, "torch"),
        ("GenuineIntel", torch.bfloat16, "onednn"),
        ("", torch.float32, "torch"),
    ],
    indirect=["vendor"],
)
def test_the_rule_looks_at_processor_and_precision(vendor: None, dtype: torch.dtype, wanted: str) -> None:
    if runnable_backends(CPU, dtype) == ["torch"]:
        wanted = "torch"
    assert find_linear_backend("auto", CPU, dtype) == wanted
    assert find_linear_backend("torch", CPU, dtype) == "torch"


@pytest.mark.parametrize("vendor", ["AuthenticAMD"], indirect=True)
def test_nothing_is_packed_where_it_cannot_be(vendor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert find_linear_backend("auto", cuda, torch.bfloat16) == "torch"
    assert find_linear_backend("auto", CPU, torch.float16) == "torch"
    with pytest.raises(UsageError, match="linear backend 'onednn' needs the CPU: give auto or torch"):
        find_linear_backend("onednn", cuda, torch.bfloat16)
    with pytest.raises(UsageError, match="unknown linear backend 'mkl': give auto, onednn, torch"):
        find_linear_backend("mkl", CPU, torch.float32)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert find_linear_backend("auto", CPU, torch.float32) == "torch"
    with pytest.raises(UsageError, match="'onednn' would round float32"):
        find_linear_backend("onednn", CPU, torch.float32)
    monkeypatch.setattr(linear, "MKLDNN", object())
    with pytest.raises(UsageError, match="'onednn' is not in this build of PyTorch"):
        find_linear_backend("onednn", CPU, torch.bfloat16)


@pytest.mark.parametrize("sees", ["all", "those before", "some"])
def test_attention_in_bf16_is_that_in_float32_but_for_rounding(sees: str) -> None:
    heads = [draw(2, 5, 3, 4, seed=seed).bfloat16().transpose(1, 2) for seed in range(3)]  # no head by itself
    mask = (torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5) | torch.eye(5, dtype=torch.bool)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [part.to(dtype).requires_grad_() for part in heads]
        mixed = attend(*given, mask if sees == "some" else None, is_causal=sees == "those before")
        assert mixed.dtype == dtype
        found.append([mixed, *torch.autograd.grad(mixed, given, draw(*mixed.shape, seed=3).to(dtype))])
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded.float()).abs().max() < 0.02 * exact.abs().max()


def test_both_towers_give_the_same_by_either_backend(tmp_path: Path) -> None:
    torch.save(tiny_clip().state_dict(), tmp_path / "tiny.pt")
    images, found = draw(3, 3, 32, 32), []
    backends = runnable_backends(CPU, torch.float32)
    for backend in backends:
        backbone = load_backbone(str(tmp_path / "tiny.pt"), device="cpu", linear_backend=backend)
        assert backbone.linear_backend == backbone.text_tower.linear_backend == backend
        tokens = torch.tensor([[5, 3, 8, 1], [5, 2, 8, 0]])
        text = backbone.model.encode_text(torch.nn.functional.pad(tokens, (0, backbone.text_tower.context_length - 4)))
        found.append((backbone.encode_images(images), text, backbone.weights_sha256))
    for image, text, digest in found[1:]:
        torch.testing.assert_close(image, found[0][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(text, found[0][1], rtol=1e-5, atol=1e-6)
        assert digest == found[0][2]
