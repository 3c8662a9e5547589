"""Backbones of open_clip: features and gradients are open_clip's own, whichever way they go."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

with warnings.catch_warnings():  # what it imports warns of what it imports
    warnings.simplefilter("ignore")
    open_clip = pytest.importorskip("open_clip", reason="needs the extra openclip")

from tiny_openclip import PACKED, WHOLE, Numbers, add_models, encode_image, encode_text, twin

from cptlite.backbones import Backbone, TokenSource, load_backbone, load_image_tower
from cptlite.backbones.linear import runnable_backends
from cptlite.config import RunConfig, resolve_config
from cptlite.datasets.images import plain_pixels, plain_view
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.runs.rows import check_text
from cptlite.text.encoder import TextEncoder
from cptlite.timing.bench import BenchPlan, run_bench

NAMES = ["11 12", "11 13 14", "21"]
CONTEXT = "31 32 33"  # three words that no name has
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_models(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the path of a twin's weights in open_clip's layout."""
    folder = tmp_path_factory.mktemp("weights")

    def saved(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file({key: value.contiguous() for key, value in twin(name).state_dict().items()}, path)
        return path

    yield saved


def named(name: str, path: Path) -> str:
    return f"openclip:{name}/{path}"


def padded(texts: list[str], tokenizer: Any, length: int) -> Tensor:
    tokens = torch.full((len(texts), length), tokenizer.pad)
    for row, text in zip(tokens, texts, strict=True):
        ids = [*([] if tokenizer.sos is None else [tokenizer.sos]), *tokenizer.encode(text), tokenizer.eos]
        row[: len(ids)] = torch.tensor(ids)
    return tokens


def configured(method: str, backbone: Backbone) -> RunConfig:
    return resolve_config({"method": method, "backbone": backbone.name, "datasets": ["x"], "suite": "x"})


def encoder(backbone: Backbone, name: str, path: str = "fused", memory: float = 8.0) -> TextEncoder:
    return TextEncoder(backbone.text_tower, cast(TokenSource, Numbers(name)), path, memory=memory)


@pytest.mark.parametrize("linear", runnable_backends(torch.device("cpu"), torch.float32))
@pytest.mark.parametrize("name", [*PACKED, *WHOLE])
def test_features_are_open_clips(files: Any, name: str, linear: str) -> None:
    backbone, theirs = load_backbone(named(name, files(name)), device="cpu", linear_backend=linear), twin(name)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone.encode_images(images), encode_image(theirs, images), **EXACT)
    alone = load_image_tower(named(name, files(name)), device="cpu", linear_backend=linear)
    assert torch.equal(alone.encode_images(images), backbone.encode_images(images))
    assert alone.weights_sha256 == backbone.weights_sha256
    tokens = padded(NAMES, Numbers(name), backbone.text_tower.context_length)
    for path in ("fused", "plain"):
        found = encoder(backbone, name, path).encode_texts(NAMES)
        torch.testing.assert_close(found, encode_text(theirs, tokens), **EXACT)
    assert backbone.embed_dim == 32 and backbone.resolution == 32
    assert backbone.text_tower.logit_scale == pytest.approx(float(theirs.logit_scale))


@pytest.mark.parametrize("memory", [8.0, 1e-6])
@pytest.mark.parametrize("name", [*PACKED, *WHOLE])
def test_gradients_are_those_of_the_tokens_in_the_contexts_place(files: Any, name: str, memory: float) -> None:
    """Contexts that are the embeddings of words give what the words give; so do their gradients, by open_clip's."""
    backbone, theirs = load_backbone(named(name, files(name)), device="cpu"), twin(name)
    weights = (
        theirs.token_embedding.weight if hasattr(theirs, "token_embedding") else theirs.text.token_embedding.weight
    )
    weights.requires_grad_(True)
    texts = [f"{CONTEXT} {each}." for each in NAMES]
    expected = encode_text(theirs, padded(texts, Numbers(name), backbone.text_tower.context_length))
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * direction).sum().backward()
    ids = Numbers(name).encode(CONTEXT)
    for path in ("fused", "plain"):
        prompts = encoder(backbone, name, path, memory).prompts(NAMES, context_length=3)
        contexts = weights.detach()[ids][None, None].clone().requires_grad_(True)  # (1, 1, 3, W)
        found = prompts(contexts)[0]
        (found * direction).sum().backward()
        torch.testing.assert_close(found, expected, **EXACT)
        assert contexts.grad is not None and weights.grad is not None
        scale = float(weights.grad[ids].abs().max())
        assert scale > 0.01
        torch.testing.assert_close(contexts.grad[0, 0] / scale, weights.grad[ids] / scale, **EXACT)
        picked = prompts.pick(contexts, torch.tensor([[2, 0]]))[0]
        torch.testing.assert_close(picked, expected[[2, 0]], **EXACT)


def test_which_way_prompts_go_is_said(files: Any) -> None:
    for name in PACKED:
        backbone = load_backbone(named(name, files(name)), device="cpu")
        assert backbone.text_tower.packs and not backbone.remark
    for name in WHOLE:
        backbone = load_backbone(named(name, files(name)), device="cpu")
        assert not backbone.text_tower.packs and encoder(backbone, name).path == "plain"
        assert "go through the plain text path, since its text tower is not CLIP's" in backbone.remark
    with pytest.raises(UsageError, match="wanted a backbone whose prompts go through both text paths.*tiny-scaled"):
        run_bench(BenchPlan(backbone="openclip:tiny-scaled", device="cpu"))


@pytest.mark.parametrize("name", ["tiny-gelu", "tiny-custom", "tiny-siglip", "tiny-resnet"])
def test_half_precision_is_near(files: Any, name: str) -> None:
    fine, coarse = (
        load_backbone(named(name, files(name)), device="cpu", precision=kind) for kind in ("float32", "bf16")
    )
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pairs = [tuple(each.encode_images(images) for each in (fine, coarse))]
    pairs.append(tuple(encoder(each, name).encode_texts(NAMES) for each in (fine, coarse)))
    for one, other in pairs:
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        assert torch.cosine_similarity(one, other).min() > 0.99


def test_random_weights_are_open_clips_of_that_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = {key: value for key, value in PACKED["tiny-gelu"].items()}
        theirs = open_clip.CLIP(**config).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    backbone = load_backbone("openclip:tiny-gelu:3", device="cpu")
    torch.testing.assert_close(backbone.encode_images(images), theirs.encode_image(images).detach(), **EXACT)
    same = load_backbone("openclip:tiny-gelu:3", device="cpu")
    other = load_backbone("openclip:tiny-gelu", device="cpu")
    assert backbone.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert (backbone.slug, other.slug) == ("openclip-random-tiny-gelu-seed3", "openclip-random-tiny-gelu")


def test_files_of_every_layout_give_the_same_weights(files: Any, tmp_path: Path) -> None:
    state = twin("tiny-gelu").state_dict()
    text = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
    custom = {f"text.{key}" if key.startswith(text) else key: value for key, value in state.items()}
    layouts: dict[str, Any] = {
        "plain.pt": state,
        "custom.pt": custom,
        "trained.pt": {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}},
        "axis.pt": {**state, "logit_scale": state["logit_scale"][None], "context_length": torch.tensor(77)},
    }
    digests = {load_backbone(named("tiny-gelu", files("tiny-gelu")), device="cpu").weights_sha256}
    for file, content in layouts.items():
        torch.save(content, tmp_path / file)
        digests.add(load_backbone(named("tiny-gelu", tmp_path / file), device="cpu").weights_sha256)
    assert len(digests) == 1
    quick = load_backbone(named("tiny-quick", tmp_path / "plain.pt"), device="cpu")
    assert quick.weights_sha256 not in digests, "equal weights with another activation are other features"
    siglip = {key: value for key, value in twin("tiny-siglip").state_dict().items() if key != "logit_bias"}
    torch.save(siglip, tmp_path / "siglip.pt")
    assert load_backbone(named("tiny-siglip", tmp_path / "siglip.pt"), device="cpu").text_tower.width == 48


def spoilt(state: dict[str, Tensor], kind: str) -> Any:
    if kind == "lacks":
        return {key: value for key, value in state.items() if key != "ln_final.bias"}
    if kind == "more":
        return {**state, "visual.more": torch.zeros(2)}
    if kind == "shape":
        return {**state, "visual.proj": torch.zeros(64, 16)}
    if kind == "nan":
        return {**state, "visual.proj": torch.full((64, 32), torch.nan)}
    return {"state_dict": twin("tiny-gelu")} if kind == "object" else {"weights": [1, 2]}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lacks", r"there is no 'text.ln_final.bias', of 1 that are missing.*the model they were trained as"),
        ("more", r"it has 'visual.more', of 1 that are not wanted"),
        ("shape", r"size mismatch for visual.proj"),
        ("nan", r"2048 of 2048 numbers of its tensor 'visual.proj' are not finite"),
        ("object", r"only tensors are read"),
        ("words", r"holds no state dict of tensors"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, kind: str, words: str) -> None:
    torch.save(spoilt(twin("tiny-gelu").state_dict(), kind), tmp_path / "w.pt")
    with pytest.raises(DataError, match=words):
        load_backbone(named("tiny-gelu", tmp_path / "w.pt"), device="cpu")


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").touch()
    with pytest.raises(DataError, match=r"no checkpoint at 'no.pt': give the path of a file$"):
        load_backbone("openclip:tiny-gelu/no.pt")
    with pytest.raises(DataError, match=f"for an absolute path write /{tmp_path}/w.pt"):
        load_backbone(f"openclip:tiny-gelu{tmp_path}/w.pt")


def test_the_configuration_beside_a_file_counts(files: Any, tmp_path: Path) -> None:
    path, beside = tmp_path / "open_clip_model.safetensors", tmp_path / "open_clip_config.json"
    path.write_bytes(files("tiny-gelu").read_bytes())
    pixels = {"mean": [0.5, 0.5, 0.5], "std": 0.25, "interpolation": "bilinear", "resize_mode": "longest"}
    model = PACKED["tiny-gelu"]
    beside.write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {**pixels, "size": [32, 32], "mode": "RGB"}}))
    spec = load_backbone(named("tiny-gelu", path), device="cpu").preprocess_spec
    wanted = {"resize": 32, "crop": "pad", "fill": 0, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    assert spec == wanted
    beside.write_text(json.dumps({"model_cfg": {**model, "quick_gelu": True}}))
    with pytest.raises(DataError, match="is of another model: .* it has quick_gelu True, not False"):
        load_backbone(named("tiny-gelu", path), device="cpu")
    beside.write_text(json.dumps({"model_cfg": {**model, "text_cfg": {**model["text_cfg"], "no_causal_mask": True}}}))
    with pytest.raises(DataError, match="in text_cfg no_causal_mask True, not False"):
        load_backbone(named("tiny-gelu", path), device="cpu")
    for wrong in ({"std": [0, 1, 1]}, {"mean": "x"}, {"resize_mode": "cut"}, {"fill_color": 300}, {"mean": [1, 2]}):
        beside.write_text(json.dumps({"preprocess_cfg": wrong}))
        with pytest.raises(DataError, match=f"wanted how images are prepared, got {next(iter(wrong))}"):
            load_backbone(named("tiny-gelu", path), device="cpu")
    for content in ("[1]", '{"model_cfg": {"embed_dim": 3}}', '{"model_cfg": {"embed_dim": 3, "vision_cfg": 1}}', "{"):
        beside.write_text(content)
        with pytest.raises(DataError, match="open_clip_config.json"):
            load_backbone(named("tiny-gelu", path), device="cpu")


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(37, 91), (91, 37), (32, 32), (20, 31)])
def test_pixels_are_open_clips(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    crop = {"shortest": "center", "longest": "pad", "squash": "squash"}[mode]
    theirs = image_transform(
        32, is_train=False, mean=mean, std=std, resize_mode=mode, interpolation=interpolation, fill_color=9
    )
    spec = {"resize": 32, "interpolation": interpolation, "crop": crop, "fill": 9, "mean": mean, "std": std}
    assert plain_pixels(image, spec).shape == (32, 32, 3)
    torch.testing.assert_close(plain_view(image, spec), theirs(image), atol=1e-6, rtol=0)


def test_weights_by_tag(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    facts = {"hf_hub": "there/tiny/", "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-siglip", {"webli_v2": facts})
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quick", {"openai": {**facts, "quick_gelu": True}})
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quick-quickgelu", {})
    with pytest.raises(UsageError, match="no weights 'webli-v2' for tiny-siglip: did you mean 'webli_v2'"):
        load_backbone("openclip:tiny-siglip/webli-v2")
    with pytest.raises(UsageError, match=r"no weights 'other' for tiny-gelu: it has none \(a file is given as ./other"):
        load_backbone("openclip:tiny-gelu/other")

    def absent(_: Any) -> str:
        raise FileNotFoundError("Failed to download file. Last error: so long\nmore")

    monkeypatch.setattr(open_clip, "download_pretrained", absent)
    with pytest.raises(
        DataError, match=r"not here and could not be downloaded \(Failed to download file\). Get https://hugg"
    ):
        load_backbone("openclip:tiny-siglip/webli_v2")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: files("tiny-siglip") if found is facts else "")
    backbone = load_backbone("openclip:tiny-siglip/webli_v2", device="cpu")
    by_file = load_backbone(named("tiny-siglip", files("tiny-siglip")), device="cpu")
    assert backbone.weights_sha256 == by_file.weights_sha256 and backbone.slug == "openclip-tiny-siglip-webli_v2"
    assert backbone.preprocess_spec == by_file.preprocess_spec, "what all published weights agree on"
    assert backbone.preprocess_spec["crop"] == "squash" and backbone.preprocess_spec["mean"] == [0.5] * 3


def test_weights_of_the_other_activation_are_refused() -> None:
    with pytest.raises(UsageError, match="trained with the activation QuickGELU, .*openclip:ViT-B-32-quickgelu/openai"):
        load_backbone("openclip:ViT-B-32/openai")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("openclip:vit-b-32", "unknown backbone 'openclip:vit-b-32': did you mean 'openclip:ViT-B-32'?"),
        ("openclip:ViT-B/32", "unknown backbone 'openclip:ViT-B/32': did you mean 'openclip:ViT-B-32'?"),
        ("openclip:vit_b_32:7", "did you mean 'openclip:ViT-B-32:7'?"),
        ("openclip:ViT-B/32/laion2b_s34b_b79k", "did you mean 'openclip:ViT-B-32/laion2b_s34b_b79k'?"),
        ("openclip:ViT-B/32//tmp/w.pt", "did you mean 'openclip:ViT-B-32//tmp/w.pt'?"),
        ("openclip:ViT-B-33", "did you mean 'ViT-B-32'"),
        ("openclip:ViT-L/14@336", "did you mean 'openclip:ViT-L-14-336'?"),
        ("openclip:", "open_clip.list_models() lists them"),
        ("openclip:hf-hub:org/repo", "no model 'hf-hub'"),
        ("openclip:tiny-gelu:x", "SEED a whole number"),
        ("openclip:tiny-gelu:", "SEED a whole number"),
        ("openclip:tiny-gelu/", "cannot take backbone 'openclip:tiny-gelu/' apart"),
        ("openclip:tiny-gelu:1/w.pt", "a seed of random weights and weights too"),
    ],
)
def test_spellings(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_backbone(name)
    assert words in str(caught.value)


def test_patch_features_are_open_clips(files: Any) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    backbone, theirs = load_backbone(named("tiny-gelu", files("tiny-gelu")), device="cpu"), twin("tiny-gelu")
    pooled, patches = backbone.encode_with_patches(images, slice(1, 3))
    theirs.visual.output_tokens = True
    their_pooled, tokens = theirs.visual(images)
    assert backbone.num_patches == 4
    torch.testing.assert_close(pooled, their_pooled, **EXACT)
    torch.testing.assert_close(patches, tokens[1:] @ theirs.visual.proj, **EXACT)
    resnet = load_backbone(named("tiny-resnet", files("tiny-resnet")), device="cpu")
    assert resnet.encode_with_patches(images, slice(0, 1))[1].shape == (1, resnet.num_patches, 32)
    other = load_backbone(named("tiny-custom", files("tiny-custom")), device="cpu")
    with pytest.raises(UsageError, match="wanted an image tower of OpenAI's forms for patch features"):
        _ = other.num_patches
    with pytest.raises(UsageError, match="wanted .* features before a projection, got .*: leave out --pre-projection"):
        _ = other.pre_projection_dim
    matrix, bias = backbone.projection
    pooled, before = backbone.encode_before_projection(images)
    torch.testing.assert_close(pooled, their_pooled, **EXACT)
    torch.testing.assert_close(before @ matrix, pooled, **EXACT)
    assert bias is None and resnet.encode_before_projection(images)[1].shape == (3, resnet.pre_projection_dim)


def test_a_text_tower_of_transformers_leaves_images(tmp_path: Path) -> None:
    state = {key: value for key, value in twin("tiny-gelu").state_dict().items() if key.startswith("visual.")}
    bert = {"text.transformer.embeddings.position_ids": torch.arange(4), "logit_scale": torch.tensor(3.0)}
    torch.save({**state, **bert}, tmp_path / "w.pt")
    backbone = load_backbone(named("tiny-words", tmp_path / "w.pt"), device="cpu")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone.encode_images(images), twin("tiny-gelu").encode_image(images), **EXACT)
    assert "for image features alone" in backbone.remark and backbone.embed_dim == 32
    check_text(configured("linear-probe", backbone), backbone)
    with pytest.raises(DataError, match="softcpt encodes prompts.*Hugging Face's transformers.*give one of .*linear-p"):
        check_text(configured("softcpt", backbone), backbone)


class FakeHub:
    """What stands in open_clip for a tokenizer of transformers."""

    strip_sep_token = False

    class tokenizer:  # noqa: N801 (an attribute there)
        pad_token_id = 1

        def __new__(cls, text: str, add_special_tokens: bool = True) -> Any:
            ids = [len(word) for word in text.split()] + [1] * add_special_tokens
            return type("Encoded", (), {"input_ids": ids})

        @staticmethod
        def convert_ids_to_tokens(token: int) -> str:
            return f"<{token}>"

    @staticmethod
    def clean_fn(text: str) -> str:
        return text.replace(".", "").lower()


def test_tokenizers_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("openclip:tiny-siglip", device="cpu")  # image features do without
    config = configured("softcpt", backbone)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _: exec("import no_such_package"))
    with pytest.raises(DataError, match=r"'nowhere/to-be-found' of tiny-siglip.*No module named.*pip install transf"):
        check_text(config, backbone)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: FakeHub())
    check_text(config, backbone)
    tokenizer = backbone.tokenizer
    assert (tokenizer.sos, tokenizer.eos, tokenizer.pad) == (None, 1, 1)
    assert tokenizer.encode("Ab cde.") == [2, 3] and tokenizer.word(4) == "<4>"
    features = TextEncoder(backbone.text_tower, tokenizer).encode_texts(["Ab cde."])
    tokens = torch.tensor([[2, 3, *[1] * 14]])
    theirs = backbone.model.whole_text(tokens)
    torch.testing.assert_close(features, theirs, **EXACT)


def test_an_image_tower_that_timm_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(**_: Any) -> None:
        raise RuntimeError("Unknown model (x)")

    monkeypatch.setattr(open_clip, "CustomTextCLIP", lacking)
    with pytest.raises(CptliteError, match=r"cannot build this model here \(Unknown model \(x\)\): pip install"):
        load_backbone("openclip:tiny-gelu")
