"""Text features of prompts through CLIP's frozen text encoder: the seam between methods and the two text paths.

`cptlite.text.plain` pads every prompt to CLIP's 77 positions and runs CLIP's own modules, as the original
implementations do; `cptlite.text.fused` runs each row that can matter once. Both give the same features and gradients.

Of either path a step may run all prompts, or some of them alone, other ones each time (`cptlite.text.picking`).

Axes: R runs, P prompts, Q picks of them, C contexts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cptlite.backbones import TextTower, TokenSource
from cptlite.errors import UsageError
from cptlite.text.layout import PromptLayout, layout_prompts, layout_texts
from cptlite.text.paths import TEXT_PATHS
from cptlite.text.picking import PromptPicker

__all__ = ["TEXT_PATHS", "PromptEncoder", "TextEncoder"]

TEXT_MEMORY = 8.0  # GiB: General-10 five times over at ViT-B's text width
KEPT_PER_LAYER = 12  # numbers a row and layer keep for the backward, in text widths; 11.5 measured on General-10


class TextEncoder:
    """A frozen text tower with its tokenizer and a chosen text path.

    Parameters
    ----------
    tower : TextTower
    tokenizer : TokenSource
    path : str
        ``fused`` or ``plain``; a tower that packed rows would not be exact for has the plain one alone.
    memory : float
        GiB that one forward may keep for its backward, about. Prompts that need more are encoded in chunks, and each
        chunk once more in the backward: a third more arithmetic, whatever number of classes.
    """

    def __init__(
        self, tower: TextTower, tokenizer: TokenSource, path: str = "fused", *, memory: float = TEXT_MEMORY
    ) -> None:
        if path not in TEXT_PATHS:
            raise UsageError(f"unknown text path {path!r}: give one of {', '.join(TEXT_PATHS)}")
        self.tower = tower
        self.tokenizer = tokenizer
        self.path = path if tower.packs else "plain"
        self.memory = memory

    def prompts(
        self,
        names: Sequence[str],
        *,
        context_length: int,
        contexts: Sequence[int] | None = None,
        position: str = "end",
        runs: int = 1,
        underscores: bool = False,
    ) -> PromptEncoder:
        """Prepare one prompt per name around learnable contexts, for R runs that each have contexts of their own.

        Parameters
        ----------
        names, context_length, contexts, position, underscores
            As of `layout_prompts`.
        runs : int
            R.

        Returns
        -------
        PromptEncoder
            From contexts of shape (R, C, L, W) to raw features of shape (R, P, D).
        """
        layout = layout_prompts(
            names,
            self.tokenizer,
            context_length=context_length,
            contexts=contexts,
            position=position,
            max_positions=self.tower.context_length,
            underscores=underscores,
        )
        return PromptEncoder(self, layout, runs)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Encode fixed texts.

        Parameters
        ----------
        texts : sequence of str
        truncate : bool
            Read the beginning of a text that is too long; without it one is an error.

        Returns
        -------
        Tensor of shape (P, D), float32
            *Not* unit length.
        """
        layout = layout_texts(texts, self.tokenizer, max_positions=self.tower.context_length, truncate=truncate)
        no_contexts = torch.zeros(1, 0, 0, self.tower.width, device=self.tower.device)
        return PromptEncoder(self, layout, runs=1)(no_contexts)[0]

    @property
    def most_rows(self) -> float:
        """Token rows of one forward that memory has room for."""
        tower = self.tower
        bytes_per_row = KEPT_PER_LAYER * tower.width * len(tower.blocks) * tower.projection.element_size()
        return self.memory * 2**30 / bytes_per_row

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings of some words, to start a context from: Tensor of shape (L, W), float32."""
        ids = self.tokenizer.encode(words.replace("_", " "))
        if not ids:
            raise UsageError(f"cannot start a context from {words!r}: give at least one word")
        return self.tower.token_embedding[torch.tensor(ids, device=self.tower.device)].detach().float().clone()


class PromptEncoder:
    """P prompts around learnable contexts: contexts in, raw text features out.

    Parameters
    ----------
    text : TextEncoder
    layout : PromptLayout
        Of one run.
    runs : int
        R to prepare for at once; any other is prepared when it is first asked for, and kept.
    """

    def __init__(self, text: TextEncoder, layout: PromptLayout, runs: int) -> None:
        self.text = text
        self.layout = layout
        self._chunks = {runs: self._prepare(runs)}

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode the prompts of R runs in one forward, or chunk by chunk where memory asks for it.

        Parameters
        ----------
        contexts : Tensor of shape (R, C, L, W)

        Returns
        -------
        Tensor of shape (R, P, D), float32
            *Not* unit length; differentiable in the contexts.
        """
        num_slots, runs = self.layout.num_slots, len(contexts)
        assert contexts.ndim == 4 and contexts.shape[1] * contexts.shape[2] == num_slots, (
            f"wanted contexts of shape (R, C, L, W) with C * L = {num_slots}, got {tuple(contexts.shape)}"
        )
        self.plan_for(runs)
        chunks = self._chunks[runs]
        vectors = contexts.flatten(0, 2)  # (R * C * L, W)
        if len(chunks) == 1 or not torch.is_grad_enabled():
            features = [encode(vectors) for encode in chunks]
        else:
            features = [checkpoint(encode, vectors, use_reentrant=False, preserve_rng_state=False) for encode in chunks]
        return torch.cat(features).unflatten(0, (runs, -1))  # (R, P, D)

    def plan_for(self, runs: int) -> None:
        """Prepare for R runs, unless that is done."""
        if runs not in self._chunks:
            self._chunks[runs] = self._prepare(runs)

    def pick(self, contexts: Tensor, picks: Tensor, *, each: bool = False) -> Tensor:
        """Encode some of the prompts of R runs in one forward, or chunk by chunk where memory asks for it.

        Parameters
        ----------
        contexts : Tensor of shape (R, C, L, W)
            As in a call; with ``each`` the context of every pick, (R, Q, L, W).
        picks : Tensor of shape (R, Q), int64
            Which prompts, different ones in a run. -1 fills up: its features are another prompt's, and mean nothing.
        each : bool
            Whether every pick comes with its context.

        Returns
        -------
        Tensor of shape (R, Q, D), float32
            *Not* unit length; differentiable in the contexts.
        """
        return self.picker(contexts, picks, each=each)

    def picking_saves(self, count: int) -> bool:
        """Whether ``count`` picks are less work than all prompts, whichever they are."""
        return self.picker.saves(count)

    @cached_property
    def picker(self) -> PromptPicker:
        """Plan for picking, made when it is first asked for."""
        return PromptPicker(TEXT_PATHS[self.text.path], self.text.tower, self.layout, self.text.most_rows)

    def _prepare(self, runs: int) -> list[Callable[[Tensor], Tensor]]:
        """Prepare the prompts of R runs, in as many chunks as the memory bound asks for."""
        path, tower = TEXT_PATHS[self.text.path], self.text.tower
        layout = self.layout.repeat(runs)
        parts = math.ceil(path.count_rows(tower, layout) / self.text.most_rows)
        return [path.prepare(tower, part) for part in layout.split(max(1, parts))]
