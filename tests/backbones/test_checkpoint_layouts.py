"""Checkpoints as training scripts, open_clip and Hugging Face save them; what does not fit is named, never guessed."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_fakes import hugging_face, tiny_state
from safetensors.torch import save_file
from torch import Tensor

from cptlite.backbones import backbone_slug, check_user_named, is_checkpoint_path, load_backbone, same_backbone
from cptlite.errors import DataError, UsageError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return tiny_state()


@pytest.fixture(scope="module")
def digest(state: State, tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest_of(state, tmp_path_factory.mktemp("plain") / "clip.pt")


def digest_of(content: Any, path: Path) -> str:
    torch.save(content, path)
    return load_backbone(str(path), device="cpu").weights_sha256


def prefixed(*prefixes: str) -> Callable[[State], Any]:
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


def under(*names: str) -> Callable[[State], Any]:
    def wrap(state: State) -> Any:
        content: Any = state
        for name in reversed(names):
            content = {"epoch": 3, "optimizer": {"lr": 0.1}, name: content}
        return content

    return wrap


@pytest.mark.parametrize(
    "save",
    [
        *(under(name) for name in ("model", "model_state_dict", "state_dict", "net")),
        under("state_dict", "model"),
        *(prefixed(name) for name in ("module.", "model.", "_orig_mod.")),
        prefixed("module.", "_orig_mod."),
        prefixed("model.", "module.", "module."),
        lambda state: under("state_dict")(prefixed("_orig_mod.", "module.")(state)),
        lambda state: {key.replace("visual.", "visual._orig_mod.", 1): value for key, value in state.items()},
        lambda state: {**prefixed("module.")(state), "n_averaged": torch.tensor(4)},
        lambda state: {**state, "attn_mask": torch.zeros(77, 77)},
        lambda state: {f"text.{key}" if not key.startswith(("visual", "logit")) else key: state[key] for key in state},
        hugging_face,
        lambda state: under("model")(prefixed("module.")(hugging_face(state))),
    ],
)
def test_layouts_give_the_same_weights(save: Callable[[State], Any], state: State, digest: str, tmp_path: Path) -> None:
    assert digest_of(save(state), tmp_path / "saved.pt") == digest


def test_hugging_face_in_safetensors(state: State, digest: str, tmp_path: Path) -> None:
    save_file(hugging_face(state), tmp_path / "model.safetensors")
    assert load_backbone(str(tmp_path / "model.safetensors"), device="cpu").weights_sha256 == digest


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda state: {**state, "logit_bias": torch.tensor(-10.0)}, r"unexpected key 'logit_bias'\)"),
        (lambda state: {key: state[key] for key in state if key != "ln_final.bias"}, "missing key 'ln_final.bias'"),
        (lambda state: {key: state[key] for key in state if key != "text_projection"}, "no 'text_projection'"),
        (lambda state: state | {"ln_final.bias": torch.zeros(63)}, r"size mismatch for ln_final\.bias: .*\[63\]"),
        (lambda state: state | {f"extra.{n}": torch.zeros(1) for n in range(9)}, "'extra.3' and 5 more"),
        (lambda state: state | {"x" * 200: torch.zeros(1)}, "x" * 200),
        (lambda state: state | {"ln_final.bias": torch.zeros(0)}, "no numbers in 'ln_final.bias'"),
        (lambda state: state | {"module.ln_final.bias": state["ln_final.bias"]}, "stands there twice"),
        (lambda state: {"model": state, "net": state}, "one state dict under each of model, net"),
        (lambda state: state | {"epoch": 3}, "an? int under 'epoch'"),
        (lambda state: {"model": state, "args": Namespace(lr=1)}, "an object 'argparse.Namespace', and only tensors"),
        (
            lambda state: state | {"ln_final.bias": torch.zeros(64, dtype=torch.complex64)},
            "an object 'torch.ComplexFloatStorage'",
        ),
        (lambda state: state | {"ln_final.bias": torch.zeros(64).to_sparse()}, "_rebuild_sparse_tensor'"),
        (
            lambda state: state | {"ln_final.bias": torch.zeros(1).expand(10**6, 10**6)},
            "claims 1000000000000 numbers, its storage has 1",
        ),
        (lambda state: {key: hugging_face(state)[key] for key in hugging_face(state) if "q_proj" not in key}, "k_proj"),
        (lambda state: hugging_face(state) | {"text_model.pooler": torch.zeros(1)}, "'pooler'"),
    ],
)
def test_what_does_not_fit_is_named(save: Callable[[State], Any], message: str, state: State, tmp_path: Path) -> None:
    torch.save(save(state), tmp_path / "saved.pt")
    with pytest.raises(DataError, match=message):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


@pytest.mark.parametrize("sizes", [{"width": 96}, {"text_width": 100}])
def test_widths_of_which_no_heads_follow_are_refused(sizes: dict[str, int], tmp_path: Path) -> None:
    torch.save(tiny_state(**sizes), tmp_path / "saved.pt")
    with pytest.raises(DataError, match="heads of 64 do not divide; another number of heads cannot be read"):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


def test_shapes_that_would_take_all_memory_are_refused_by_their_shapes(state: State, tmp_path: Path) -> None:
    """Nothing is allocated for a model before all shapes agree."""
    wide = state | {"visual.conv1.weight": torch.zeros(10**6, 1, 1, 1)}
    long = state | {"positional_embedding": torch.zeros(10**5, 64)}
    for content, message in ((wide, "size mismatch for visual"), (long, "has 100000 positions, more than 1024")):
        torch.save(content, tmp_path / "saved.pt")
        with pytest.raises(DataError, match=message):
            load_backbone(str(tmp_path / "saved.pt"), device="cpu")


HUGGING_FACE = {
    "text_config": {"num_attention_heads": 1, "hidden_act": "quick_gelu"},
    "vision_config": {"num_attention_heads": 1, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
OPEN_CLIP = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"width": 64}, "text_cfg": {"heads": 1, "width": 64}}


def changed(config: dict[str, Any], part: str, **values: Any) -> dict[str, Any]:
    return config | {part: config[part] | values}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", HUGGING_FACE),
        ("config.json", {"lr": 0.1, "heads": 9}),
        ("config.json", [1, 2]),
        ("open_clip_config.json", {"model_cfg": OPEN_CLIP}),
        ("open_clip_config.json", OPEN_CLIP),
    ],
)
def test_a_configuration_that_agrees_is_fine(name: str, config: Any, state: State, digest: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(config))
    assert digest_of(hugging_face(state), tmp_path / "saved.pt") == digest


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("config.json", changed(HUGGING_FACE, "text_config", num_attention_heads=2), "2 heads in its text tower"),
        ("config.json", changed(HUGGING_FACE, "vision_config", num_attention_heads=4), "4 heads in its vision tower"),
        ("config.json", changed(HUGGING_FACE, "vision_config", hidden_act="gelu"), "activation 'gelu' in its vision"),
        ("config.json", changed(HUGGING_FACE, "text_config", layer_norm_eps=1e-6), "epsilon 1e-06 in its text"),
        ("config.json", HUGGING_FACE | {"text_config_dict": {"hidden_act": "gelu"}}, "activation 'gelu' in its text"),
        ("config.json", {"vision_config": {}}, "8 heads in its text tower of width 64, OpenAI's has 1"),
        ("config.json", HUGGING_FACE | {"text_config": 3}, "cannot be read"),
        ("open_clip_config.json", {"model_cfg": OPEN_CLIP | {"quick_gelu": False}}, "no quick_gelu is set"),
        ("open_clip_config.json", {"model_cfg": changed(OPEN_CLIP, "text_cfg", heads=8)}, "8 heads in its text"),
        ("open_clip_config.json", {"model_cfg": changed(OPEN_CLIP, "vision_cfg", head_width=32)}, "2 heads in its vis"),
        ("open_clip_config.json", {"model_cfg": changed(OPEN_CLIP, "vision_cfg", pool_type="avg")}, "pool_type 'avg'"),
        ("open_clip_config.json", {"model_cfg": changed(OPEN_CLIP, "text_cfg", no_causal_mask=True)}, "causal mask"),
        ("open_clip_config.json", {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": [0.5] * 3}}, "pixel mean"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_another_model_of_the_same_shapes_is_refused(
    name: str, config: Any, message: str, beside: bool, state: State, tmp_path: Path
) -> None:
    content = {"model": state, "config": config}
    if beside:
        (tmp_path / name).write_text(json.dumps(config))
        content = state
    torch.save(content, tmp_path / "saved.pt")
    with pytest.raises(DataError, match=message):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000, "\x00", " " * (2**20 + 1)])
def test_a_configuration_that_cannot_be_read_is_one_message(text: str, state: State, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    torch.save(state, tmp_path / "saved.pt")
    with pytest.raises(DataError, match=r"configuration of a checkpoint in .*config\.json"):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


@pytest.mark.parametrize("key", ["text_projection", "logit_scale", "visual.conv1.weight", "token_embedding.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(key: str, value: float, state: State, tmp_path: Path) -> None:
    damaged = state[key].clone()
    damaged.view(-1)[-1] = value
    torch.save(state | {key: damaged}, tmp_path / "saved.pt")
    with pytest.raises(DataError, match=rf"1 of {damaged.numel()} numbers of its tensor '{key}' are not finite"):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


@pytest.mark.parametrize(
    ("scale", "fits"), [(4.6052, True), (4.6054688, True), (0.0, True), (4.62, False), (100.0, False)]
)
def test_the_logit_scale_is_clips(scale: float, fits: bool, state: State, tmp_path: Path) -> None:
    torch.save(state | {"logit_scale": torch.tensor(scale)}, tmp_path / "saved.pt")
    if fits:
        assert load_backbone(str(tmp_path / "saved.pt"), device="cpu").text_tower.logit_scale == pytest.approx(scale)
        return
    with pytest.raises(DataError, match="its 'logit_scale' is"):
        load_backbone(str(tmp_path / "saved.pt"), device="cpu")


def test_names_that_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [is_checkpoint_path(name) for name in ("demo", "RN50", "random:RN50:3", "x.pt", "RN51", "/a/b")] == [
        *[False] * 3,
        *[True] * 3,
    ]
    monkeypatch.chdir(tmp_path)
    assert same_backbone("x.pt", str(tmp_path / "x.pt")) and same_backbone("random:RN50", "random:RN50:0")
    assert (
        not same_backbone("x.pt", "y/x.pt") and not same_backbone("demo", "./demo") and not same_backbone("a", "RN50")
    )
    monkeypatch.setattr("cptlite.backbones.names.backbone_slug", lambda name: "x-00000000")
    assert not same_backbone("x.pt", "y/x.pt")  # slugs are short enough to be made equal


def test_a_path_is_only_opened_if_the_user_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, given in (("demo", None), ("RN50", None), ("random:RN50:3", None), ("x.pt", str(tmp_path / "x.pt"))):
        check_user_named(name, given, "cache")
    for given in (None, "demo", "y.pt"):
        with pytest.raises(UsageError, match=r"cache names the checkpoint 'my x\.pt' .* --backbone 'my x\.pt'"):
            check_user_named("my x.pt", given, "cache")
    assert backbone_slug("x.pt") == backbone_slug(str(tmp_path / "x.pt"))
