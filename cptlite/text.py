"""Text features of prompts through CLIP's frozen text encoder: the seam between methods and the two text paths.

``plain`` pads every prompt to CLIP's 77 positions and runs CLIP's own modules, as the original implementations do;
``fused`` (`cptlite.fused`) runs each row that can matter once. Both give the same features and gradients.

Axes: P prompts, S positions, C contexts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.backbone import TextTower, Tokenizer
from cptlite.errors import UsageError
from cptlite.fused import prepare_fused
from cptlite.prompts import PromptLayout, layout_prompts, layout_texts

__all__ = ["TEXT_PATHS", "TextEncoder", "prepare_plain"]

PromptEncoder = Callable[[Tensor | None], Tensor]


def prepare_plain(tower: TextTower, layout: PromptLayout) -> PromptEncoder:
    """Prepare the slow twin: every prompt padded to the tower's context length.

    Returns
    -------
    callable
        From contexts of shape (C, L, W), or None where the layout has none, to raw features of shape (P, D), float32.
    """
    pad = tower.context_length - layout.tokens.shape[1]
    tokens = F.pad(torch.from_numpy(layout.tokens), (0, pad)).to(tower.device)
    slots = F.pad(torch.from_numpy(layout.slots), (0, pad), value=-1).to(tower.device)
    ends = torch.from_numpy(layout.ends).to(tower.device)

    def encode(contexts: Tensor | None) -> Tensor:
        x = tower.token_embedding[tokens].to(tower.dtype)  # (P, S, W)
        if contexts is not None and contexts.numel():
            vectors = contexts.flatten(0, -2).to(tower.dtype)  # (C * L, W)
            x = torch.where((slots >= 0)[..., None], vectors[slots.clamp(min=0)], x)
        x = x + tower.positional_embedding.to(tower.dtype)
        x = tower.transformer(x.transpose(0, 1)).transpose(0, 1)  # (P, S, W)
        x = tower.final_norm(x[torch.arange(len(ends), device=x.device), ends])  # (P, W)
        return (x @ tower.projection).float()

    return encode


TEXT_PATHS: dict[str, Callable[[TextTower, PromptLayout], PromptEncoder]] = {
    "fused": prepare_fused,
    "plain": prepare_plain,
}


class TextEncoder:
    """A frozen text tower with its tokenizer and a chosen text path.

    Parameters
    ----------
    tower : TextTower
    tokenizer : Tokenizer
    path : str
        ``fused`` or ``plain``.
    """

    def __init__(self, tower: TextTower, tokenizer: Tokenizer, path: str = "fused") -> None:
        if path not in TEXT_PATHS:
            raise UsageError(f"unknown text path {path!r}: give one of {', '.join(TEXT_PATHS)}")
        self.tower = tower
        self.tokenizer = tokenizer
        self.path = path

    def prompts(
        self,
        names: Sequence[str],
        *,
        context_length: int,
        contexts: Sequence[int] | None = None,
        position: str = "end",
    ) -> PromptEncoder:
        """Prepare one prompt per name around learnable contexts; see `layout_prompts`.

        Returns
        -------
        callable
            From contexts of shape (C, L, W) to raw features of shape (P, D), float32; differentiable in the contexts.
        """
        layout = layout_prompts(
            names,
            self.tokenizer,
            context_length=context_length,
            contexts=contexts,
            position=position,
            max_positions=self.tower.context_length,
        )
        return TEXT_PATHS[self.path](self.tower, layout)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode fixed texts.

        Returns
        -------
        Tensor of shape (P, D), float32
            *Not* unit length.
        """
        layout = layout_texts(texts, self.tokenizer, max_positions=self.tower.context_length)
        return TEXT_PATHS[self.path](self.tower, layout)(None)

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings of some words, to start a context from: Tensor of shape (L, W), float32."""
        ids = self.tokenizer.encode(words.replace("_", " "))
        if not ids:
            raise UsageError(f"cannot start a context from {words!r}: give at least one word")
        return self.tower.token_embedding[torch.tensor(ids, device=self.tower.device)].detach().float().clone()
