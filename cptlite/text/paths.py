"""The two ways through the text encoder by name: ``fused``, and its slow twin ``plain``.

Axes: P prompts, Q picks of them, C contexts, L context tokens, F positions of a prefix, W text width, D joint
dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cptlite.backbones import TextTower
from cptlite.text.blocks import Groups
from cptlite.text.fused import prepare_fused, prepare_fused_parted
from cptlite.text.layout import PromptLayout
from cptlite.text.picked import PickedEncode, prepare_picked
from cptlite.text.plain import prepare_plain, prepare_plain_parted, prepare_plain_picked
from cptlite.text.plan import count_rows

__all__ = ["TEXT_PATHS", "TextPath"]


@dataclass(frozen=True, kw_only=True)
class TextPath:
    """One of the two ways through the text encoder.

    Attributes
    ----------
    prepare : callable
        From a tower and a layout to a function of the flattened contexts, (C * L, W) to raw features (P, D), float32.
    prepare_parted : callable
        From a tower, a layout and a block to a function of the flattened contexts and of vectors (P, L, W) that stand
        in each prompt's own context from that block on.
    count_rows : callable
        From a tower and a layout to the number of token rows that the linear layers run on.
    prepare_picked : callable
        From a tower and a layout to a function of contexts and of some prompts; see `PickedEncode`.
    count_picked : callable
        From a tower, positions of all prefixes, C F, and groups to the number of token rows for these picks.
    """

    prepare: Callable[[TextTower, PromptLayout], Callable[[Tensor], Tensor]]
    prepare_parted: Callable[[TextTower, PromptLayout, int], Callable[[Tensor, Tensor], Tensor]]
    count_rows: Callable[[TextTower, PromptLayout], int]
    prepare_picked: Callable[[TextTower, PromptLayout], PickedEncode]
    count_picked: Callable[[TextTower, int, Groups], int]


TEXT_PATHS = {
    "fused": TextPath(
        prepare=prepare_fused,
        prepare_parted=prepare_fused_parted,
        count_rows=lambda _, layout: count_rows(layout),
        prepare_picked=prepare_picked,
        count_picked=lambda _, prefixes, groups: prefixes + sum(count * width for count, width in groups),
    ),
    "plain": TextPath(
        prepare=prepare_plain,
        prepare_parted=prepare_plain_parted,
        count_rows=lambda tower, layout: len(layout) * tower.context_length,
        prepare_picked=prepare_plain_picked,
        count_picked=lambda tower, _, groups: tower.context_length * sum(count for count, _ in groups),
    ),
}
