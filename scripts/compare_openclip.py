"""Compare cptlite's features with open_clip's own, model by model, with random weights; one copy is held at a time.

    python scripts/compare_openclip.py ViT-B-32 ViT-H-14 ViT-B-16-SigLIP --linear-backend torch onednn

Prints, of image features and text features, the largest difference beside the largest number; and of gradients in
contexts, the largest difference of the fused path from the plain one over the largest of these. Prompts are token ids,
drawn here: the tokenizers of many models want a network.
"""

from __future__ import annotations

import argparse
import gc
import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from cptlite.backbones import load_backbone
from cptlite.text.encoder import TextEncoder

SEED, IMAGES, CONTEXT = 3, 2, 4
TEXTS = ("11 12 13", "11", "11 12 29 31 37 41 43")


class Numbers:
    """A tokenizer of words that are numbers."""

    def __init__(self, model: str) -> None:
        siglip = "siglip" in model.lower()  # whose texts have no start, and are filled up with their end
        self.sos: int | None = None if siglip else 49406
        self.eos, self.pad = (1, 1) if siglip else (49407, 0)

    def encode(self, text: str) -> list[int]:
        """Token ids: the numbers."""
        return [int(word) for word in text.replace(".", " 7").split()]

    def word(self, token: int) -> str:
        """Text of a token: its number."""
        return str(token)


def draw(*shape: int) -> Tensor:
    """Draw normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))


def open_clips(model: str) -> tuple[Tensor, Tensor]:
    """Features of open_clip's own model: of images, and of texts padded to its context length."""
    import open_clip

    torch.manual_seed(SEED)
    theirs: Any = open_clip.create_model(model).eval()
    side = theirs.visual.image_size
    side = side if isinstance(side, int) else side[0]
    words = Numbers(model)
    tokens = torch.full((len(TEXTS), theirs.context_length), words.pad)
    for row, text in zip(tokens, TEXTS, strict=True):
        ids = [*([] if words.sos is None else [words.sos]), *words.encode(text), words.eos]
        row[: len(ids)] = torch.tensor(ids)
    with torch.inference_mode():
        return theirs.encode_image(draw(IMAGES, 3, side, side)), theirs.encode_text(tokens)


def compare(model: str, linear_backend: str, images: Tensor, texts: Tensor) -> str:
    """Load the model as a backbone, with the same weights, and say how far its features are from these."""
    backbone = load_backbone(f"openclip:{model}:{SEED}", device="cpu", linear_backend=linear_backend)
    side, tower, words = backbone.resolution, backbone.text_tower, Numbers(model)
    parts = [_difference("image", backbone.encode_images(draw(IMAGES, 3, side, side)), images)]
    gradients = []
    for path in ("fused", "plain"):
        encoder = TextEncoder(tower, words, path)
        if encoder.path == path:
            parts.append(_difference(path, encoder.encode_texts(TEXTS), texts))
        contexts = (0.02 * draw(1, 1, CONTEXT, tower.width)).requires_grad_(True)
        features = encoder.prompts(TEXTS, context_length=CONTEXT)(contexts)[0]  # (P, D)
        (features * draw(*features.shape)).sum().backward()
        assert contexts.grad is not None
        gradients.append(contexts.grad)
    if tower.packs:
        relative = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
        parts.append(f"gradient {relative:.1e}")
    return f"{model} {backbone.linear_backend}: {', '.join(parts)}"


def _difference(name: str, found: Tensor, wanted: Tensor) -> str:
    return f"{name} {float((found - wanted).abs().max()):.1e} of {float(wanted.abs().max()):.2g}"


def main() -> None:
    """Print a line a model and linear backend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--linear-backend", nargs="+", default=["auto"])
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # open_clip's, of weights that are random
    warnings.simplefilter("ignore")
    for model in given.models:
        images, texts = open_clips(model)
        for linear_backend in given.linear_backend:
            gc.collect()
            print(compare(model, linear_backend, images, texts), flush=True)


if __name__ == "__main__":
    main()
