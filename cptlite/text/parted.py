"""Prompts that share a context up to a block of the text tower, and from there on have vectors of their own for it.

Axes: R runs, P prompts, C contexts, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cptlite.errors import UsageError
from cptlite.text.encoder import TextEncoder
from cptlite.text.layout import layout_prompts
from cptlite.text.paths import TEXT_PATHS

__all__ = ["PartedEncoder"]

Encode = Callable[[Tensor, Tensor], Tensor]


class PartedEncoder:
    """P prompts around shared contexts that part at a block: contexts and each prompt's vectors in, raw features out.

    Parameters
    ----------
    text : TextEncoder
    names, context_length, contexts
        As of `layout_prompts`; the name stands at the end.
    block : int
        Text block before which vectors are replaced, counted from 0: after the first, and before the end of the last.
    runs : int
        R to prepare for at once; any other is prepared when it is first asked for, and kept.

    Raises
    ------
    UsageError
        The tower has no such block, or is run as a whole.
    """

    def __init__(
        self,
        text: TextEncoder,
        names: Sequence[str],
        *,
        context_length: int,
        contexts: Sequence[int],
        block: int,
        runs: int = 1,
    ) -> None:
        count = len(text.tower.blocks)
        if not text.tower.packs:
            raise UsageError(
                "wanted a text tower whose blocks can be entered one by one, got one of another form that is run as a "
                "whole: give another backbone, or a method that learns at its input, kgcoop perhaps"
            )
        if not 1 <= block < count:
            raise UsageError(f"block must be from 1 to {count - 1} in a text tower of {count} blocks, got {block}")
        self.text, self.block = text, block
        self.layout = layout_prompts(
            names,
            text.tokenizer,
            context_length=context_length,
            contexts=contexts,
            max_positions=text.tower.context_length,
        )
        self._chunks = {runs: self._prepare(runs)}

    def __call__(self, contexts: Tensor, inserted: Tensor) -> Tensor:
        """Encode the prompts of R runs in one forward, or chunk by chunk where memory asks for it.

        Parameters
        ----------
        contexts : Tensor of shape (R, C, L, W)
        inserted : Tensor of shape (R, P, L, W)
            What stands in each prompt's context from the block on.

        Returns
        -------
        Tensor of shape (R, P, D), float32
            *Not* unit length; differentiable in both.
        """
        runs = len(contexts)
        if runs not in self._chunks:
            self._chunks[runs] = self._prepare(runs)
        sizes, encoders = zip(*self._chunks[runs], strict=True)
        vectors, own = contexts.flatten(0, 2), inserted.flatten(0, 1)  # (R * C * L, W), (R * P, L, W)
        found = []
        for stop, size, encode in zip(accumulate(sizes), sizes, encoders, strict=True):
            arguments = vectors, own[stop - size : stop]
            if len(sizes) == 1 or not torch.is_grad_enabled():
                found.append(encode(*arguments))
            else:
                found.append(checkpoint(encode, *arguments, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(found).unflatten(0, (runs, -1))  # (R, P, D)

    def _prepare(self, runs: int) -> list[tuple[int, Encode]]:
        """Prepare the prompts of R runs in chunks, as if their rows were apart in every block; prompts of each."""
        path, tower = TEXT_PATHS[self.text.path], self.text.tower
        layout = self.layout.repeat(runs)
        parts = math.ceil(path.count_rows(tower, layout.apart()) / self.text.most_rows)
        return [(len(part), path.prepare_parted(tower, part, self.block)) for part in layout.split(max(1, parts))]
