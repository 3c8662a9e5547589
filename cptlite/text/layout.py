"""Prompts as data: which token, context vector or shared row stands at each position.

A prompt is ``[SOS] context name . [EOS]``. Class-name positions ``end``, ``middle`` and ``front``, and contexts shared
by all prompts, per task, per class or per image, differ only in these arrays, never in code paths.

Axes: P prompts, S positions, C contexts, L context tokens, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cptlite.errors import UsageError

__all__ = [
    "POSITIONS",
    "PromptLayout",
    "layout_prompts",
    "layout_texts",
    "repeat_layout",
    "split_layout",
]

POSITIONS = ("end", "middle", "front")


class TokenSource(Protocol):
    """What a layout needs of a tokenizer."""

    sos: int
    eos: int

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """P prompts, each a row of S positions.

    Attributes
    ----------
    tokens : ndarray of shape (P, S), int64
        Token id; 0 where a context vector stands and after EOS.
    slots : ndarray of shape (P, S), int64
        Row of the flattened (C * L, W) contexts that stands there, or -1 for a token.
    ends : ndarray of shape (P,), int64
        Position of EOS.
    """

    tokens: np.ndarray
    slots: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)


def layout_prompts(
    names: Sequence[str],
    tokenizer: TokenSource,
    *,
    context_length: int,
    contexts: Sequence[int] | np.ndarray | None = None,
    position: str = "end",
    max_positions: int = 77,
) -> PromptLayout:
    """Lay out one prompt per name around learnable contexts.

    Parameters
    ----------
    names : sequence of str
        P class or task names; underscores read as spaces.
    tokenizer : TokenSource
    context_length : int
        L; 0 leaves the bare name.
    contexts : sequence of int, optional
        Index of each prompt's context, below C; by default all prompts share context 0.
    position : str
        One of `POSITIONS`: where the name stands. ``middle`` puts the first floor(L/2) context tokens before it.
    max_positions : int
        The text tower's context length.

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
    owners = np.zeros(len(names), np.int64) if contexts is None else np.asarray(contexts, np.int64)
    before = {"end": context_length, "middle": context_length // 2, "front": 0}[position]
    rows = []
    for name, owner in zip(names, owners, strict=True):
        words = name.replace("_", " ")
        tokens = tokenizer.encode(words + ".")
        # The name's own token count splits it from the stop, as in the original code.
        split = len(tokenizer.encode(words)) if before < context_length else 0
        slots = [-2 - int(owner) * context_length - i for i in range(context_length)]
        row = [
            tokenizer.sos,
            *slots[:before],
            *tokens[:split],
            *slots[before:],
            *tokens[split:],
            tokenizer.eos,
        ]
        _check_fit(name, len(row), context_length, max_positions)
        rows.append(row)
    return _pack(rows)


def layout_texts(texts: Sequence[str], tokenizer: TokenSource, *, max_positions: int = 77) -> PromptLayout:
    """Lay out fixed texts, without any context.

    Raises
    ------
    UsageError
        A text does not fit into ``max_positions``.
    """
    rows = []
    for text in texts:
        row = [tokenizer.sos, *tokenizer.encode(text), tokenizer.eos]
        _check_fit(text, len(row), 0, max_positions)
        rows.append(row)
    return _pack(rows)


def _check_fit(name: str, length: int, context_length: int, max_positions: int) -> None:
    if length > max_positions:
        around = f" with {context_length} context tokens" if context_length else ""
        advice = " or give a shorter context (--context-length, --context-init)" if context_length else ""
        raise UsageError(
            f"the prompt of {name!r}{around} has {length} tokens, and the text encoder takes {max_positions}: "
            f"shorten the name{advice}"
        )


def _pack(rows: list[list[int]]) -> PromptLayout:
    """Rows of token ids (>= 0) and context slots (-2 - slot) to padded arrays."""
    ends = np.array([len(row) - 1 for row in rows], np.int64)
    packed = np.zeros((len(rows), int(ends.max(initial=0)) + 1), np.int64)
    for row, target in zip(rows, packed, strict=True):
        target[: len(row)] = row
    is_slot = packed < 0
    return PromptLayout(tokens=np.where(is_slot, 0, packed), slots=np.where(is_slot, -2 - packed, -1), ends=ends)


def repeat_layout(layout: PromptLayout, runs: int, num_slots: int) -> PromptLayout:
    """Lay the same prompts out for several runs, each around contexts of its own.

    Parameters
    ----------
    layout : PromptLayout
        Of P prompts.
    runs : int
        R.
    num_slots : int
        Context rows of one run, C * L; those of run r start at r * C * L.

    Returns
    -------
    PromptLayout
        Of R * P prompts, run by run.
    """
    shifts = np.repeat(np.arange(runs) * num_slots, len(layout))[:, None]
    slots = np.tile(layout.slots, (runs, 1))
    return PromptLayout(
        tokens=np.tile(layout.tokens, (runs, 1)),
        slots=np.where(slots >= 0, slots + shifts, -1),
        ends=np.tile(layout.ends, runs),
    )


def split_layout(layout: PromptLayout, parts: int) -> list[PromptLayout]:
    """Take consecutive prompts apart, into at most ``parts`` layouts of about equal size."""
    bounds = np.linspace(0, len(layout), min(parts, len(layout)) + 1).astype(int)
    return [
        PromptLayout(tokens=layout.tokens[start:stop], slots=layout.slots[start:stop], ends=layout.ends[start:stop])
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]
