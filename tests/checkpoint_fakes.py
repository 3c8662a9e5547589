"""Tiny vision-transformer CLIPs, and their weights under other people's names."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from clip.model import CLIP, convert_weights

FACTS = {"input_resolution": 32, "context_length": 77, "vocab_size": 60}
# Names of a block's tensors: OpenAI's, then Hugging Face's.
BLOCK = (
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def tiny_clip(seed: int = 0, *, width: int = 64, text_width: int = 64) -> CLIP:
    """A CLIP of one block a tower, images of 32 pixels, 60 tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(32, 32, 1, width, 16, 77, FACTS["vocab_size"], text_width, text_width // 64, 1).eval()


def tiny_state(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    return tiny_clip(seed, **sizes).state_dict()


def save_archive(model: CLIP, path: Path, *, half: bool = False) -> None:
    """Save as OpenAI did: a trace with the weights and a few facts as buffers."""
    if half:
        convert_weights(model)
    for name, value in FACTS.items():
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, inputs, check_trace=False).save(str(path))


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as ``transformers.CLIPModel`` names them."""
    named = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    norms = (
        ("text_model.final_layer_norm", "ln_final"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
    )
    pairs = list(norms)
    for tower, front in (("text_model", ""), ("vision_model", "visual.")):
        theirs, ours = f"{tower}.encoder.layers.0.", f"{front}transformer.resblocks.0."
        pairs += [(theirs + there, ours + here) for here, there in BLOCK]
        for kind in ("weight", "bias"):
            for letter, part in zip("qkv", state[f"{ours}attn.in_proj_{kind}"].chunk(3), strict=True):
                named[f"{theirs}self_attn.{letter}_proj.{kind}"] = part.clone()
    for theirs, ours in pairs:
        named |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    return named
