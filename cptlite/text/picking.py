"""Some of the prompts of a layout, other ones in each step, at shapes that do not depend on which.

Axes: R runs, P prompts, Q picks of each run, C contexts, L context tokens, F positions of a prefix, W text width,
D joint dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cptlite.backbones import TextTower
from cptlite.text.blocks import Groups
from cptlite.text.layout import PromptLayout
from cptlite.text.paths import TextPath

__all__ = ["PromptPicker"]

GROUPS = 12  # of picks, at least: more leave fewer rows of padding and make more launches; measured
KEPT_IN_PATH = 1 / 6  # of what a row keeps for the backward: keys and values are copied along each path
TRIMMED_DEVICES = ("cpu",)
"""Where a group is as wide as its picks are. Elsewhere it is as wide as any picks could be: to look at these, a GPU
would have to be waited for, and a recorded step has one shape."""


class PromptPicker:
    """What picking from a layout needs, worked out once.

    Parameters
    ----------
    path : TextPath
    tower : TextTower
    layout : PromptLayout
        P prompts of one run.
    most_rows : float
        Token rows of a chunk, about.
    """

    def __init__(self, path: TextPath, tower: TextTower, layout: PromptLayout, most_rows: float) -> None:
        self.path, self.tower, self.most_rows = path, tower, most_rows
        self._prefix = layout.prefix_length
        lengths = layout.eos_positions + 1 - self._prefix  # (P,)
        self._shortest, self._longest_first = int(lengths.argmin()), np.sort(lengths)[::-1]
        self._all_rows, self._num_contexts = path.count_rows(tower, layout), int(layout.owners.max()) + 1
        self._lengths, self._owners = (
            torch.from_numpy(array).to(tower.device) for array in (lengths, layout.owners)
        )  # (P,), (P,)
        self._encode = path.prepare_picked(tower, layout)

    def saves(self, count: int) -> bool:
        """Whether any ``count`` prompts have fewer token rows than all P together."""
        contexts = min(self._num_contexts, count)
        return self.count_rows(contexts, self._bound(1, count)) < self._all_rows

    def count_rows(self, contexts: int, groups: Groups) -> int:
        """Token rows of some groups of picks around so many contexts."""
        return self.path.count_picked(self.tower, contexts * self._prefix, groups)

    def __call__(self, contexts: Tensor, picks: Tensor, *, each: bool = False) -> Tensor:
        """Encode picks; see `PromptEncoder.pick`."""
        runs, count = picks.shape
        picks = torch.where(picks < 0, self._shortest, picks).flatten()  # (R * Q,)
        owners = self._owners[picks]
        if not each:  # the context of each pick among all R C
            run = torch.arange(runs, device=picks.device).repeat_interleave(count, output_size=len(picks))
            owners = owners + run * contexts.shape[1]
        order = self._lengths[picks].argsort(descending=True, stable=True)
        own_contexts = each or contexts.shape[1] > count
        flat = contexts.flatten(0, 1)  # (R C, L, W)
        if own_contexts:
            flat = flat.index_select(0, order if each else owners[order])  # (R Q, L, W)
        groups = self.groups(picks, runs)
        found = []
        for start, stop, part in self._chunks(len(flat), groups):
            given = flat[start:stop] if own_contexts else flat
            arguments = given, picks[order[start:stop]], None if own_contexts else owners[order[start:stop]], part
            if len(part) == len(groups) or not torch.is_grad_enabled():
                found.append(self._encode(*arguments))
            else:
                found.append(checkpoint(self._encode, *arguments, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(found).index_select(0, order.argsort()).unflatten(0, (runs, count))  # (R, Q, D)

    def groups(self, picks: Tensor, runs: int) -> Groups:
        """Make groups of picks (R * Q,), longest first."""
        if picks.device.type not in TRIMMED_DEVICES:
            return self._bound(runs, len(picks) // runs)
        return _make_groups(self._lengths[picks].sort(descending=True).values.tolist())

    def _bound(self, runs: int, count: int) -> Groups:
        """Make groups that hold any ``count`` prompts of each run, all different but for the shortest."""
        return _make_groups(self._longest_first[:count].repeat(runs).tolist())

    def _chunks(self, contexts: int, groups: Groups) -> Iterator[tuple[int, int, Groups]]:
        """Take groups apart where they have too many rows: first pick of each chunk, the one after its last, groups."""
        in_paths = sum(count * (self._prefix + width) for count, width in groups)
        kept = self.count_rows(contexts, groups) + KEPT_IN_PATH * in_paths
        parts = math.ceil(kept / self.most_rows)
        if parts > len(groups):  # a group would be too much
            groups = [(1, width) for count, width in groups for _ in range(count)]
        start = 0
        for indices in np.array_split(np.arange(len(groups)), min(parts, len(groups))):
            part = [groups[index] for index in indices]
            stop = start + sum(count for count, _ in part)
            yield start, stop, part
            start = stop


def _make_groups(longest_first: Sequence[int]) -> Groups:
    """Make groups of neighbours, equal in number but for the last, each as wide as its first."""
    size = math.ceil(len(longest_first) / GROUPS)
    starts = range(0, len(longest_first), size)
    return [(len(longest_first[start : start + size]), longest_first[start]) for start in starts]
