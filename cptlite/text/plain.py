"""The plain text path, the slow twin of `cptlite.text.fused`: every prompt padded, through CLIP's own modules.

As the original implementations do it. Axes: P prompts, Q picks of them, S positions, C contexts, L context tokens,
W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.blocks import Groups
from cptlite.text.layout import PromptLayout
from cptlite.text.picked import PickedEncode

__all__ = ["prepare_plain", "prepare_plain_parted", "prepare_plain_picked"]


def prepare_plain(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; every prompt is padded to the tower's context length.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    tokens, slots, eos_positions = _pad(tower, layout, layout.slots)

    def encode(contexts: Tensor) -> Tensor:
        return _encode(tower, tokens, slots, eos_positions, contexts)

    return encode


def prepare_plain_parted(tower: TextTower, layout: PromptLayout, block: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Prepare one layout whose prompts part at a block; the slow twin of `prepare_fused_parted`."""
    tokens, slots, eos_positions = _pad(tower, layout, layout.slots)
    own = _pad(tower, layout, layout.apart().slots)[1]

    def encode(contexts: Tensor, inserted: Tensor) -> Tensor:
        x = _embed(tower, tokens, slots, contexts) + tower.positional_embedding.to(tower.dtype)
        x = x.transpose(0, 1)  # (S, P, W)
        for layer in tower.blocks[:block]:
            x = layer(x)
        x = _put(x.transpose(0, 1), own, inserted.flatten(0, 1).to(tower.dtype)).transpose(0, 1)
        for layer in tower.blocks[block:]:
            x = layer(x)
        last = x.transpose(0, 1)[torch.arange(len(tokens), device=x.device), eos_positions]  # (P, W)
        return (tower.final_norm(last) @ tower.projection).float()

    return encode


def prepare_plain_picked(tower: TextTower, layout: PromptLayout) -> PickedEncode:
    """Prepare one layout, of which each step picks some prompts; the slow twin of `prepare_picked`."""
    tokens, slots, eos_positions = _pad(tower, layout, layout.local_slots)

    def encode(contexts: Tensor, picks: Tensor, owners: Tensor | None, groups: Groups) -> Tensor:
        own = torch.arange(len(picks), device=picks.device) if owners is None else owners
        local = slots[picks]  # (Q, S)
        placed = torch.where(local >= 0, local + own[:, None] * contexts.shape[1], -1)
        return _encode(tower, tokens[picks], placed, eos_positions[picks], contexts.flatten(0, 1))  # (Q, D)

    return encode


def _pad(tower: TextTower, layout: PromptLayout, slots: np.ndarray) -> tuple[Tensor, ...]:
    """Tokens and slots on the tower's context length, (P, S) each, and the positions of EOS, on its device."""
    padding = (0, tower.context_length - slots.shape[1])
    tokens = np.where(slots >= 0, tower.stand_in, layout.tokens)
    return (
        F.pad(torch.from_numpy(tokens), padding, value=layout.pad).to(tower.device),
        F.pad(torch.from_numpy(slots), padding, value=-1).to(tower.device),
        torch.from_numpy(layout.eos_positions).to(tower.device),
    )


def _encode(tower: TextTower, tokens: Tensor, slots: Tensor, eos_positions: Tensor, contexts: Tensor) -> Tensor:
    """From flattened contexts (C * L, W) to raw features (P, D), float32."""
    return tower.encode_embedded(_embed(tower, tokens, slots, contexts), tokens, eos_positions).float()


def _embed(tower: TextTower, tokens: Tensor, slots: Tensor, contexts: Tensor) -> Tensor:
    """Tokens (P, S) and flattened contexts (C * L, W), embedded but for their positions: (P, S, W)."""
    x = tower.token_embedding[tokens].to(tower.dtype)
    return _put(x, slots, contexts.to(tower.dtype)) if len(contexts) else x


def _put(x: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    """Put vectors, by slots (P, S), in the place of what stands there in x (P, S, W)."""
    return torch.where((slots >= 0)[..., None], vectors[slots.clamp(min=0)], x)
