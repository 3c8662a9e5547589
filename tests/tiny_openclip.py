"""Small models of open_clip, of every kind of tower, and their twins made by open_clip itself."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

VISION = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 3}
SIGLIP_TEXT = {
    **{"context_length": 16, "vocab_size": 1000, "width": 48, "heads": 2, "layers": 2, "no_causal_mask": True},
    **{"pool_type": "last", "proj_bias": True, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}},
    "hf_tokenizer_name": "nowhere/to-be-found",
}
DECODER = {**TEXT, "attn_pooler_heads": 2}


def _config(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"embed_dim": 32, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}, **more}


# Whose text towers have CLIP's form, whatever their sizes and activation.
PACKED = {
    "tiny-gelu": _config(),
    "tiny-quick": _config(quick_gelu=True),
    "tiny-eps": _config(
        {"norm_kwargs": {"eps": 1e-2}},
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-2}, "heads": 1},
    ),
    "tiny-custom": _config({"pool_type": "avg"}, {"context_length": 40}, custom_text=True),
    "tiny-resnet": _config({"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, {"heads": 6}),
}
# Whose text towers have not.
WHOLE = {
    "tiny-both-ways": _config(text={"no_causal_mask": True}, custom_text=True),
    "tiny-siglip": _config(text=SIGLIP_TEXT, custom_text=True, init_logit_bias=-10),
    "tiny-coca": _config(
        {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        {"context_length": 76, "embed_cls": True, "output_tokens": True},
        custom_text=True,
        multimodal_cfg=DECODER,
    ),
    "tiny-scaled": _config({"ls_init_value": 0.1}, {"ls_init_value": 0.1}),
}
OTHERS = {"tiny-words": _config(text={"hf_model_name": "nowhere/bert", "hf_tokenizer_name": "nowhere/bert"})}
ALL = {**PACKED, **WHOLE, **OTHERS}


class Numbers:
    """A tokenizer of words that are numbers; SigLIP's texts have no start, and are filled up with their end."""

    def __init__(self, name: str) -> None:
        self.sos, self.eos, self.pad = (None, 1, 1) if name == "tiny-siglip" else (49406, 49407, 0)

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.replace(".", " 7").split()]

    def word(self, token: int) -> str:
        return str(token)


def add_models(folder: Path) -> None:
    """Make the models known to open_clip."""
    import open_clip

    for name, config in ALL.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def twin(name: str, seed: int = 0) -> Any:
    """Build the model as open_clip does, with no number at a start that hides a fault: biases of 0, factors of 1."""
    import open_clip

    config = deepcopy(ALL[name])
    custom, captions = config.pop("custom_text", False), "multimodal_cfg" in config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = open_clip.CoCa if captions else open_clip.CustomTextCLIP if custom else open_clip.CLIP
        model = kind(**config)
        for key, value in model.named_parameters():
            if value.ndim < 2 and not key.startswith("logit"):
                nn.init.normal_(value, mean=float("ln_" in key and key.endswith("weight")), std=0.2)
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                nn.init.normal_(value, std=0.2)
    return model.eval().requires_grad_(False)


def encode_image(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Raw features; CoCa's own function gives unit length without a word."""
    return model.encode_image(images, normalize=False)


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model.encode_text(tokens, normalize=False)
