"""Text features of prompts through CLIP's frozen text encoder: the seam between methods and the two text paths.

``plain`` pads every prompt to CLIP's 77 positions and runs CLIP's own modules, as the original implementations do;
``fused`` (`cptlite.text.fused`) runs each row that can matter once. Both give the same features and gradients.

Axes: P prompts, S positions, C contexts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cptlite.backbones.clip import TextTower, Tokenizer
from cptlite.errors import UsageError
from cptlite.text.fused import prepare_fused
from cptlite.text.layout import PromptLayout, layout_prompts, layout_texts, repeat_layout, split_layout
from cptlite.text.plan import count_rows

__all__ = ["TEXT_PATHS", "TextEncoder", "prepare_plain"]

PromptEncoder = Callable[[Tensor | None], Tensor]

TEXT_MEMORY = 8.0  # GiB: General-10 five times over at ViT-B's text width
KEPT_PER_LAYER = 12  # numbers a row and layer keep for the backward, in text widths; 11.5 measured on General-10


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


@dataclass(frozen=True, kw_only=True)
class _TextPath:
    """How a layout is prepared, and how many token rows its linear layers run on."""

    prepare: Callable[[TextTower, PromptLayout], PromptEncoder]
    rows: Callable[[TextTower, PromptLayout], int]


TEXT_PATHS = {
    "fused": _TextPath(prepare=prepare_fused, rows=lambda _, layout: count_rows(layout)),
    "plain": _TextPath(prepare=prepare_plain, rows=lambda tower, layout: len(layout) * tower.context_length),
}


class TextEncoder:
    """A frozen text tower with its tokenizer and a chosen text path.

    Parameters
    ----------
    tower : TextTower
    tokenizer : Tokenizer
    path : str
        ``fused`` or ``plain``.
    memory : float
        GiB that one forward may keep for its backward, about. Prompts that need more are encoded in chunks, and each
        chunk once more in the backward: a third more arithmetic, whatever number of classes.
    """

    def __init__(
        self, tower: TextTower, tokenizer: Tokenizer, path: str = "fused", *, memory: float = TEXT_MEMORY
    ) -> None:
        if path not in TEXT_PATHS:
            raise UsageError(f"unknown text path {path!r}: give one of {', '.join(TEXT_PATHS)}")
        self.tower = tower
        self.tokenizer = tokenizer
        self.path = path
        self.memory = memory

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
            Contexts of R runs, (R, C, L, W), are encoded in one forward to (R, P, D).
        """
        layout = layout_prompts(
            names,
            self.tokenizer,
            context_length=context_length,
            contexts=contexts,
            position=position,
            max_positions=self.tower.context_length,
        )
        by_runs: dict[int, PromptEncoder] = {}

        def encode(contexts: Tensor | None) -> Tensor:
            if contexts is None or contexts.ndim == 3:
                runs, slots = 1, 0
            else:
                runs, slots = len(contexts), contexts.shape[1] * contexts.shape[2]
            if runs not in by_runs:
                by_runs[runs] = self._prepare(repeat_layout(layout, runs, slots) if runs > 1 else layout)
            features = by_runs[runs](contexts)
            return features if contexts is None or contexts.ndim == 3 else features.unflatten(0, (runs, -1))

        return encode

    def _prepare(self, layout: PromptLayout) -> PromptEncoder:
        """Prepare a layout in as many chunks as the memory bound asks for."""
        path, tower = TEXT_PATHS[self.path], self.tower
        bytes_per_row = KEPT_PER_LAYER * tower.width * len(tower.blocks) * tower.projection.element_size()
        parts = math.ceil(path.rows(tower, layout) * bytes_per_row / (self.memory * 2**30))
        if parts <= 1:
            return path.prepare(tower, layout)
        chunks = [path.prepare(tower, part) for part in split_layout(layout, parts)]

        def encode(contexts: Tensor | None) -> Tensor:
            if contexts is None or not torch.is_grad_enabled():
                return torch.cat([chunk(contexts) for chunk in chunks])
            return torch.cat(
                [checkpoint(chunk, contexts, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
            )

        return encode

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode fixed texts.

        Returns
        -------
        Tensor of shape (P, D), float32
            *Not* unit length.
        """
        layout = layout_texts(texts, self.tokenizer, max_positions=self.tower.context_length)
        return self._prepare(layout)(None)

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings of some words, to start a context from: Tensor of shape (L, W), float32."""
        ids = self.tokenizer.encode(words.replace("_", " "))
        if not ids:
            raise UsageError(f"cannot start a context from {words!r}: give at least one word")
        return self.tower.token_embedding[torch.tensor(ids, device=self.tower.device)].detach().float().clone()
