"""Weights in every form they come in, and what is said when they do not come."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from golden_cases import golden_backbone
from safetensors.torch import save_file
from torch import Tensor

from cptlite.backbones import Backbone, Tokenizer, backbone_slug, load_backbone
from cptlite.backbones.backbone import set_precision
from cptlite.backbones.checkpoints import read_state_dict, seeded_token_rows
from cptlite.backbones.patches import pool_everywhere
from cptlite.errors import CptliteError, DataError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip.model import VisionTransformer

ALL = slice(None)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return load_backbone("random:demo:7").model.state_dict()


@pytest.fixture(scope="module")
def digest() -> str:
    return load_backbone("random:demo:7").weights_sha256


def test_random_weights_are_seeded_and_leave_the_generator_alone(digest: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert load_backbone("random:demo:7").weights_sha256 == digest
    assert torch.equal(torch.rand(1), expected)
    assert load_backbone("random:demo:8").weights_sha256 != digest


@pytest.mark.slow
def test_state_dict_nested_state_dict_and_safetensors(state: dict[str, Tensor], digest: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "nested.pt")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "clip.safetensors")
    for name in ("plain.pt", "nested.pt", "clip.safetensors"):
        backbone = load_backbone(str(tmp_path / name))
        assert backbone.weights_sha256 == digest, name
        assert backbone.resolution == 64
        assert backbone.embed_dim == 128


@pytest.mark.slow
def test_jit_archive(state: dict[str, Tensor], digest: str, tmp_path: Path) -> None:
    """OpenAI's files are traced models with the weights and a few facts as buffers."""
    model = load_backbone("random:demo:7", linear_backend="torch").model
    for fact in ("input_resolution", "context_length", "vocab_size"):
        value = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}[fact]
        if hasattr(model, fact):
            delattr(model, fact)
        model.register_buffer(fact, torch.tensor(value))
    inputs = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, inputs, check_trace=False).save(str(tmp_path / "archive.pt"))
    assert load_backbone(str(tmp_path / "archive.pt")).weights_sha256 == digest


def test_stored_float32_is_not_rounded_to_half(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "clip.pt")
    loaded = load_backbone(str(tmp_path / "clip.pt")).model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_unused_token_rows_are_rebuilt(state: dict[str, Tensor], tmp_path: Path) -> None:
    table = seeded_token_rows(5, 49408, 128)
    used = torch.tensor([3, 320], dtype=torch.int32)
    small = {key: value.contiguous() for key, value in state.items() if key != "token_embedding.weight"}
    small["token_embedding.used_ids"] = used
    small["token_embedding.used_rows"] = torch.ones(2, 128, dtype=torch.float16)
    save_file(small, tmp_path / "small.safetensors", metadata={"token_seed": "5", "vocab_size": "49408"})
    rebuilt = read_state_dict(tmp_path / "small.safetensors")["token_embedding.weight"]
    assert (rebuilt[used.long()] == 1).all()
    assert torch.equal(rebuilt[4:320], table[4:320])


def test_images_encode_to_raw_float32() -> None:
    backbone = load_backbone("random:demo")
    features = backbone.encode_images(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 128)
    assert features.dtype == torch.float32
    assert not torch.allclose(features.norm(dim=-1), torch.ones(2))


def asked_everywhere(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, images: Tensor) -> Tensor:
    """Features (B, 1 + M, D) of class token and patches, or mean and positions, by clip's own code bent a little."""
    visual = backbone.model.visual
    if isinstance(visual, VisionTransformer):  # each token in turn where the class token is read
        rolled = []
        for place in range(1 + backbone.num_patches):
            hook = visual.transformer.register_forward_hook(lambda _, given, out, place=place: out.roll(-place, 0))
            rolled.append(backbone.encode_images(images))
            hook.remove()
        return torch.stack(rolled, dim=1)
    attend = functional.multi_head_attention_forward
    monkeypatch.setattr(
        functional,
        "multi_head_attention_forward",
        lambda query, key, **options: attend(query=key, key=key, **options),
    )
    return backbone.encode_images(images).transpose(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "golden", "random:ViT-B/32"])
def test_local_features_come_from_the_forward_of_the_pooled_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = golden_backbone() if name == "golden" else load_backbone(name)
    images = torch.randn(2 if name.startswith("random") else 4, 3, backbone.resolution, backbone.resolution)
    pooled, local = backbone.encode_with_patches(images, slice(None, None, 2))
    assert torch.equal(pooled, backbone.encode_images(images))
    assert local.shape == (len(images) // 2, backbone.num_patches, backbone.embed_dim) and local.dtype == torch.float32
    if name.startswith("random"):
        return
    everywhere = asked_everywhere(monkeypatch, backbone, images)
    torch.testing.assert_close(everywhere[:, 0], pooled)
    torch.testing.assert_close(local, everywhere[::2, 1:])
    assert not backbone.model.visual._forward_hooks


def test_the_query_of_the_mean_is_the_pooled_feature() -> None:
    backbone = load_backbone("demo")
    seen: list[Tensor] = []
    pool = backbone.model.visual.attnpool
    handle = pool.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pooled = backbone.encode_images(torch.randn(3, 3, 64, 64))
    handle.remove()
    torch.testing.assert_close(pool_everywhere(pool, seen[0])[:, 0], pooled)


@pytest.mark.parametrize("name", ["demo", "golden"])
def test_features_before_the_projection_are_projected_to_the_pooled_ones(name: str) -> None:
    """Of a residual network and of a vision transformer."""
    backbone = golden_backbone() if name == "golden" else load_backbone(name)
    images = torch.randn(3, 3, backbone.resolution, backbone.resolution)
    pooled, before = backbone.encode_before_projection(images)
    assert torch.equal(pooled, backbone.encode_images(images))
    matrix, bias = backbone.projection
    assert matrix.shape == (backbone.pre_projection_dim, backbone.embed_dim) and before.shape[1] == len(matrix)
    torch.testing.assert_close(before @ matrix + (0 if bias is None else bias), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["demo", "golden"])
def test_local_features_in_bf16(name: str) -> None:
    fine = golden_backbone("torch") if name == "golden" else load_backbone(name, linear_backend="torch")
    coarse = replace(fine, model=set_precision(deepcopy(fine.model), torch.bfloat16))
    images = torch.randn(4, 3, fine.resolution, fine.resolution)
    (pooled, local), wanted = coarse.encode_with_patches(images, ALL), fine.encode_with_patches(images, ALL)
    assert torch.equal(pooled, coarse.encode_images(images))
    assert local.dtype == torch.float32
    assert (local - wanted[1]).abs().max() < 0.05 * wanted[1].abs().max()


def test_bf16_on_the_cpu() -> None:
    images = torch.randn(4, 3, 64, 64)
    fine = load_backbone("random:demo").encode_images(images)
    coarse = load_backbone("random:demo", precision="bf16").encode_images(images)
    assert (fine - coarse).abs().max() < 0.05 * fine.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random:RN50", "random:ViT-B/32"])
def test_architectures_build(name: str) -> None:
    backbone = load_backbone(name)
    assert backbone.resolution == 224
    assert backbone.text_tower.context_length == 77


def test_slugs(tmp_path: Path) -> None:
    assert backbone_slug("ViT-L/14@336px") == "ViT-L-14-336px"
    assert backbone_slug("random:ViT-B/32") == backbone_slug("random:ViT-B/32:0") == "random-ViT-B-32"
    assert backbone_slug("random:ViT-B/32:1") == "random-ViT-B-32-seed1"
    assert backbone_slug(str(tmp_path / "a" / "x.pt")) != backbone_slug(str(tmp_path / "b" / "x.pt"))


def test_tokenizer_is_clips() -> None:
    import clip

    tokenizer = Tokenizer()
    tokens = clip.tokenize("A Photo of a dog.")[0]
    assert [tokenizer.sos, *tokenizer.encode("A Photo of a dog."), tokenizer.eos] == tokens[tokens > 0].tolist()


def test_no_network_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def refuse(*_: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"put it at .*/\.cache/clip/ViT-B-32\.pt"):
        load_backbone("ViT-B/32")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("RN51", UsageError, "unknown backbone 'RN51'"),
        ("random:RN51", UsageError, "cannot make random weights for 'RN51'"),
        ("random:RN50:x", UsageError, "seed 'x'"),
        ("nowhere/clip.pt", DataError, "no checkpoint at"),
        ("FILE", DataError, "cannot read the checkpoint"),
        ("OTHER", DataError, "wanted a CLIP in OpenAI's key names"),
        ("LIST", DataError, "no state dict of tensors"),
    ],
)
def test_wrong_backbones(name: str, kind: type[CptliteError], message: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("not a checkpoint")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "OTHER")
    torch.save([1, 2], tmp_path / "LIST")
    local = tmp_path / name
    with pytest.raises(kind, match=message):
        load_backbone(str(local) if name.isupper() and local.exists() else name)


def test_wrong_device_and_precision() -> None:
    for options, message in (
        ({"device": "gpu"}, "unknown device"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"device": "cpu", "precision": "fp16"}, "needs a GPU"),
    ):
        with pytest.raises(UsageError, match=message):
            load_backbone("random:demo", **options)
