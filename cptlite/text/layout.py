"""Prompts as data: which token or context vector stands at each position.

A prompt is ``[SOS] context name . [EOS]``. Class-name positions ``end``, ``middle`` and ``front``, and contexts shared
by all prompts, per task, per class or per image, differ only in these arrays, never in code paths.

Axes: P prompts, S positions, R runs, C contexts, L context tokens, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from cptlite.backbones.tokenizer import TokenSource
from cptlite.errors import UsageError

__all__ = ["POSITIONS", "PromptLayout", "layout_prompts", "layout_texts"]

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """P prompts of S positions each.

    Attributes
    ----------
    tokens : ndarray of shape (P, S), int64
        Token id; 0 where a context vector stands, ``pad`` after EOS.
    slots : ndarray of shape (P, S), int64
        Index of the context vector that stands there, of C * L, or -1 for a token.
    eos_positions : ndarray of shape (P,), int64
        Position of EOS, the last of a prompt.
    num_slots : int
        Context vectors, C * L.
    pad : int
        Token id that fills a prompt up.
    """

    tokens: np.ndarray
    slots: np.ndarray
    eos_positions: np.ndarray
    num_slots: int
    pad: int = 0

    def __len__(self) -> int:
        return len(self.eos_positions)

    @property
    def context_length(self) -> int:
        """Context tokens L of each prompt."""
        return int((self.slots[0] >= 0).sum())

    @property
    def local_slots(self) -> np.ndarray:
        """Which of a prompt's own L context vectors stands at each position, or -1: (P, S)."""
        return np.where(self.slots >= 0, self.slots % max(1, self.context_length), -1)

    @property
    def owners(self) -> np.ndarray:
        """Index of each prompt's context: (P,); 0 where contexts have no tokens."""
        return self.slots.max(axis=1, initial=0) // max(1, self.context_length)

    @property
    def prefix_length(self) -> int:
        """Positions that prompts around one context have in common: SOS, and the context as far as it comes first."""
        in_order = self.local_slots[:, 1:] == np.arange(self.slots.shape[1] - 1)  # (P, S - 1)
        return 1 + int(np.logical_and.accumulate(in_order, axis=1).sum(axis=1).min())

    def repeat(self, runs: int) -> PromptLayout:
        """Lay the same prompts out for R runs, run by run: R * P prompts; slots of run r start at r * C * L."""
        shifts = np.repeat(np.arange(runs) * self.num_slots, len(self))[:, None]  # (R * P, 1)
        slots = np.tile(self.slots, (runs, 1))  # (R * P, S)
        return replace(
            self,
            tokens=np.tile(self.tokens, (runs, 1)),
            slots=np.where(slots >= 0, slots + shifts, -1),
            eos_positions=np.tile(self.eos_positions, runs),
            num_slots=runs * self.num_slots,
        )

    def apart(self) -> PromptLayout:
        """Lay the same prompts out around a context each: slots of prompt p start at p * L."""
        local = self.local_slots  # (P, S)
        slots = np.where(local >= 0, local + np.arange(len(self))[:, None] * self.context_length, -1)
        return replace(self, slots=slots, num_slots=len(self) * self.context_length)

    def split(self, parts: int) -> list[PromptLayout]:
        """Take consecutive prompts apart, into at most ``parts`` layouts of about equal size over the same slots."""
        bounds = np.linspace(0, len(self), min(parts, len(self)) + 1).astype(int)
        return [
            replace(
                self,
                tokens=self.tokens[start:stop],
                slots=self.slots[start:stop],
                eos_positions=self.eos_positions[start:stop],
            )
            for start, stop in pairwise(bounds)
        ]


def layout_prompts(
    names: Sequence[str],
    tokenizer: TokenSource,
    *,
    context_length: int,
    contexts: Sequence[int] | np.ndarray | None = None,
    position: str = "end",
    max_positions: int = 77,
    underscores: bool = False,
) -> PromptLayout:
    """Lay out one prompt per name around learnable contexts.

    Parameters
    ----------
    names : sequence of str
        P class or task names.
    tokenizer : TokenSource
    context_length : int
        L; 0 leaves the bare name.
    contexts : sequence of int, optional
        Index of each prompt's context; C is the largest plus one. By default all prompts share context 0.
    position : str
        One of `POSITIONS`: where the name stands. ``middle`` puts the first floor(L/2) context tokens before it.
    max_positions : int
        The text tower's context length.
    underscores : bool
        Whether those of names stay; else they read as spaces.

    Returns
    -------
    PromptLayout

    Raises
    ------
    UsageError
        Unknown position, or a name that does not fit.
    """
    if position not in POSITIONS:
        raise UsageError(f"unknown class-name position {position!r}: give one of {', '.join(POSITIONS)}")
    indices = [0] * len(names) if contexts is None else [int(index) for index in contexts]
    before = {"end": context_length, "middle": context_length // 2, "front": 0}[position]
    rows = []
    for name, index in zip(names, indices, strict=True):
        words = name if underscores else name.replace("_", " ")
        tokens = tokenizer.encode(words + ".")
        # The name's own token count splits it from the stop, as in the original code.
        split = len(tokenizer.encode(words)) if before < context_length else 0
        context = [-1 - index * context_length - i for i in range(context_length)]
        words_and_context = [*context[:before], *tokens[:split], *context[before:], *tokens[split:]]
        rows.append([*_start(tokenizer), *words_and_context, tokenizer.eos])
    return _pack(names, rows, (max(indices, default=0) + 1) * context_length, max_positions, tokenizer.pad)


def layout_texts(
    texts: Sequence[str], tokenizer: TokenSource, *, max_positions: int = 77, truncate: bool = False
) -> PromptLayout:
    """Lay out fixed texts, without any context.

    Raises
    ------
    UsageError
        A text does not fit into ``max_positions``, and is not to be cut there.
    """
    most = max_positions - 1 if truncate else None
    rows = [[*[*_start(tokenizer), *tokenizer.encode(text)][:most], tokenizer.eos] for text in texts]
    return _pack(texts, rows, 0, max_positions, tokenizer.pad)


def _start(tokenizer: TokenSource) -> list[int]:
    """SOS, where the vocabulary has one."""
    return [] if tokenizer.sos is None else [tokenizer.sos]


def _pack(names: Sequence[str], rows: list[list[int]], num_slots: int, max_positions: int, pad: int) -> PromptLayout:
    """Rows of token ids (>= 0) and context slots (-1 - slot) to padded arrays."""
    for name, row in zip(names, rows, strict=True):
        if len(row) > max_positions:
            context_length = sum(symbol < 0 for symbol in row)
            around = f" with {context_length} context tokens" if context_length else ""
            advice = " or give a shorter context (--context-length, --context-init)" if context_length else ""
            raise UsageError(
                f"the prompt of {name!r}{around} has {len(row)} tokens, and the text encoder takes {max_positions}: "
                f"shorten the name{advice}"
            )
    eos_positions = np.array([len(row) - 1 for row in rows], np.int64)
    symbols = np.full((len(rows), int(eos_positions.max(initial=0)) + 1), pad, np.int64)  # (P, S)
    for row, target in zip(rows, symbols, strict=True):
        target[: len(row)] = row
    return PromptLayout(
        tokens=np.where(symbols >= 0, symbols, 0),
        slots=np.where(symbols >= 0, -1, -1 - symbols),
        eos_positions=eos_positions,
        num_slots=num_slots,
        pad=pad,
    )
