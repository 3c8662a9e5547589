"""The shapes of the CLIP models that are known by name.

Source: OpenAI's released checkpoints (Radford et al., ICML 2021); ``demo`` is this package's own.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ARCHITECTURES", "HEAD_WIDTH", "PIXEL_MEAN", "PIXEL_STD"]

# Of every attention head in OpenAI's models, whose number of heads is made of it.
HEAD_WIDTH = 64
# Mean and deviation of red, green and blue that images are normalised with, on [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def _architecture(
    embed_dim: int,
    resolution: int,
    layers: Any,
    width: int,
    patch: int | None,
    text: tuple[int, int],
) -> dict[str, Any]:
    text_width, text_layers = text
    return {
        "embed_dim": embed_dim,
        "image_resolution": resolution,
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": patch,
        "context_length": 77,
        "vocab_size": 49408,
        "transformer_width": text_width,
        "transformer_heads": text_width // HEAD_WIDTH,
        "transformer_layers": text_layers,
    }


# Keyword arguments of clip.model.CLIP by name.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "RN50": _architecture(1024, 224, (3, 4, 6, 3), 64, None, (512, 12)),
    "RN101": _architecture(512, 224, (3, 4, 23, 3), 64, None, (512, 12)),
    "RN50x4": _architecture(640, 288, (4, 6, 10, 6), 80, None, (640, 12)),
    "RN50x16": _architecture(768, 384, (6, 8, 18, 8), 96, None, (768, 12)),
    "RN50x64": _architecture(1024, 448, (3, 15, 36, 10), 128, None, (1024, 12)),
    "ViT-B/32": _architecture(512, 224, 12, 768, 32, (512, 12)),
    "ViT-B/16": _architecture(512, 224, 12, 768, 16, (512, 12)),
    "ViT-L/14": _architecture(768, 224, 24, 1024, 14, (768, 12)),
    "ViT-L/14@336px": _architecture(768, 336, 24, 1024, 14, (768, 12)),
    # A residual network: a step on the CPU costs a fraction of what a transformer on patches of 8 pixels does.
    "demo": _architecture(128, 64, (1, 1, 1, 1), 16, None, (128, 4)),
}
