"""The plain text path, the slow twin of `cptlite.text.fused`: every prompt padded, through CLIP's own modules.

As the original implementations do it. Axes: P prompts, S positions, C contexts, L context tokens, W text width,
D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.layout import PromptLayout

__all__ = ["prepare_plain"]


def prepare_plain(tower: TextTower, layout: PromptLayout) -> Callable[[Tensor], Tensor]:
    """Prepare one layout; every prompt is padded to the tower's context length.

    Returns
    -------
    callable
        From flattened contexts of shape (C * L, W) to raw features of shape (P, D), float32.
    """
    padding = (0, tower.context_length - layout.tokens.shape[1])
    tokens = F.pad(torch.from_numpy(layout.tokens), padding).to(tower.device)
    slots = F.pad(torch.from_numpy(layout.slots), padding, value=-1).to(tower.device)
    eos_positions = torch.from_numpy(layout.eos_positions).to(tower.device)
    prompts = torch.arange(len(layout), device=tower.device)

    def encode(contexts: Tensor) -> Tensor:
        x = tower.token_embedding[tokens].to(tower.dtype)  # (P, S, W)
        if layout.num_slots:
            vectors = contexts.to(tower.dtype)[slots.clamp(min=0)]  # (P, S, W)
            x = torch.where((slots >= 0)[..., None], vectors, x)
        x = x + tower.positional_embedding.to(tower.dtype)
        x = tower.transformer(x.transpose(0, 1)).transpose(0, 1)  # (P, S, W)
        x = tower.final_norm(x[prompts, eos_positions])  # (P, W)
        return (x @ tower.projection).float()

    return encode
