"""Ways to attend along a trie's paths, timed against each other: rows in, rows out, at the text tower's width.

``blocks M``: prefixes, and masked attention on blocks of up to M cells, as the text tower is run, by the size of a
block; ``flex``: FlexAttention over all nodes at once, each seeing its ancestors; ``packed``: every path for itself and
whole, one behind the other, by flash attention of variable length (bf16 alone; on a processor one path at a time).

A way is given its rows in the order that it takes them, as a tower that is run that way holds them; ``packed`` takes
the nodes and copies them, for only its attention needs them more than once.

Axes: P prompts, U nodes of the trie, R rows of a way, E paths, C cells in all, H heads, W text width.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones.linear import attend
from cptlite.text.layout import PromptLayout, layout_prompts
from cptlite.text.plan import TextPlan, plan_rows
from cptlite.text.trunk import attend_rows
from cptlite.timing.clock import Patience, median_seconds
from cptlite.timing.ways import CONTEXT_LENGTH
from gpu_parts.equality import difference
from gpu_parts.setting import Row, Setting

__all__ = ["attention"]

BLOCK_SIZES = (24, 32, 48, 64, 96)
CALLS = 20  # at a time: one takes less than a clock is worth
Attend = Callable[[Tensor, Tensor], Tensor]  # from queries (R, W), keys and values (R, 2W) to (R, W)
Path = tuple[int, ...]  # nodes of a prompt, SOS first


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a way attends, over how many cells, and how many scores it computes, or at most computes.

    Its rows are these nodes, (R,); the result of each node stands at one row of them, (U,).
    """

    cells: int
    scores: int
    run: Attend
    nodes: Tensor
    back: Tensor
    backward: bool = True


def attention(setting: Setting) -> Iterator[Row]:
    """Every way at every suite's sizes: seconds of one layer's attention, forward and with backward."""
    backbone = setting.backbone(precision="float32")
    tower, num_heads = backbone.text_tower, backbone.text_tower.width // 64
    for suite in setting.suites:
        names = setting.names(suite, backbone)
        layout = layout_prompts(
            [name for of_task in names.values() for name in of_task],
            backbone.tokenizer,
            context_length=CONTEXT_LENGTH,
            contexts=[task for task, of_task in enumerate(names.values()) for _ in of_task],
            max_positions=tower.context_length,
        )
        paths = _trie_paths(layout)
        size = 1 + max(max(path) for path in paths)
        for dtype in (torch.bfloat16, torch.float32):
            draw = torch.Generator().manual_seed(0)
            qkv = torch.randn(size, 3 * tower.width, generator=draw).to(setting.place, dtype)
            wanted: Tensor | None = None
            for name, make in _ways(layout, paths, num_heads, setting.place, dtype):
                setting.tell(f"{suite}, {name}, {dtype}")
                row = {"suite": suite, "precision": str(dtype).removeprefix("torch."), "rows": size, "way": name}
                try:
                    way = make()
                    found = _attend(way, qkv)
                    wanted = found if wanted is None else wanted
                    yield {**row, **_measure(setting, way, qkv), "difference": difference(found, wanted)}
                except Exception as error:  # a kernel or a compiler that is not there: others go on
                    yield {**row, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def _trie_paths(layout: PromptLayout) -> list[Path]:
    """Nodes of each prompt, P paths; depth first: a node, then all that come after it on some path, then others."""
    symbols = np.where(layout.slots >= 0, -1 - layout.slots, layout.tokens)  # (P, S)
    prompts = [tuple(row[: end + 1].tolist()) for row, end in zip(symbols, layout.eos_positions, strict=True)]
    numbers: dict[tuple[int, ...], int] = {}
    for prompt in sorted(set(prompts)):
        for length in range(1, len(prompt) + 1):
            numbers.setdefault(prompt[:length], len(numbers))
    return [tuple(numbers[prompt[:length]] for length in range(1, len(prompt) + 1)) for prompt in prompts]


def _ways(
    layout: PromptLayout, paths: Sequence[Path], num_heads: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], _Way]]]:
    """Name of each way, and what prepares it."""
    for size in BLOCK_SIZES:
        yield f"blocks {size}", partial(_blocks, layout, paths, size, num_heads, device)
    yield "flex", partial(_flex, paths, num_heads, device)
    if device.type == "cpu" or dtype == torch.bfloat16:
        yield "packed", partial(_packed, paths, num_heads, device)


def _attend(way: _Way, qkv: Tensor) -> Tensor:
    """Attend a way, from the nodes' queries, keys and values (U, 3W) to (U, W)."""
    return way.run(*_take_rows(way, qkv)).index_select(0, way.back)


def _take_rows(way: _Way, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Take queries (R, W), and keys and values (R, 2W), of a way's rows."""
    width = qkv.shape[1] // 3
    return qkv[:, :width].index_select(0, way.nodes), qkv[:, width:].index_select(0, way.nodes)


def _measure(setting: Setting, way: _Way, qkv: Tensor) -> Row:
    """Seconds of one call on the nodes' queries, keys and values (U, 3W)."""
    calls = 1 if setting.small else CALLS
    patience = Patience(repeats=1 if setting.small else 10, seconds=5.0)
    given = _take_rows(way, qkv)
    leaves, pull = [part.detach().requires_grad_() for part in given], torch.ones_like(given[0])

    def step() -> None:
        for _ in range(calls):
            torch.autograd.grad(way.run(*leaves), leaves, pull)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(calls):
            way.run(*given)

    return {
        "cells": way.cells,
        "scores": way.scores,
        "forward_s": median_seconds(forward, setting.place, patience) / calls,
        "step_s": median_seconds(step, setting.place, patience) / calls if way.backward else None,
    }


def _blocks(layout: PromptLayout, paths: Sequence[Path], size: int, num_heads: int, device: torch.device) -> _Way:
    plan = plan_rows(layout, block_size=size)
    nodes = _nodes_of_rows(plan, paths)
    _, first = np.unique(nodes, return_index=True)  # (U,); node 0 at row 0, the first SOS, though padding has it too
    blocks = plan.to(device)
    in_prefixes = len(nodes) - sum(blocks.sizes)
    return _Way(
        cells=len(nodes),
        scores=sum(mask.numel() for mask in plan.masks) + in_prefixes * plan.prefix_length,
        run=partial(attend_rows, blocks=blocks, num_heads=num_heads),
        nodes=torch.from_numpy(nodes).to(device),
        back=torch.from_numpy(first).to(device),
    )


def _nodes_of_rows(plan: TextPlan, paths: Sequence[Path]) -> np.ndarray:
    """Node that stands at each row of a plan, (R,); SOS at padding."""
    nodes, seen = np.zeros(len(plan.tokens), np.int64), _seen_by_ends(plan)
    for path, eos in zip(paths, plan.ends.rows[plan.eos_of_prompt].tolist(), strict=True):
        nodes[seen[eos]] = np.array(path)[plan.positions[seen[eos]]]
    return nodes


def _seen_by_ends(plan: TextPlan) -> dict[int, np.ndarray]:
    """Rows that each EOS row sees, which are those of its path."""
    found = dict[int, np.ndarray]()
    ends = set(plan.ends.rows.tolist())
    for (_, width), of_blocks, masks in zip(plan.groups, plan.seen, plan.masks, strict=True):
        for rows, mask in zip(of_blocks.numpy(), masks[:, 0].numpy(), strict=True):  # (k,), (s, k)
            own = rows[-width:].tolist()
            found |= {row: rows[sees] for row, sees in zip(own, mask, strict=True) if row in ends}
    return found


def _flex(paths: Sequence[Path], num_heads: int, device: torch.device) -> _Way:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    size = 1 + max(max(path) for path in paths)
    ends = np.zeros(size, np.int64)  # after each node's last descendant
    for path in paths:
        ends[list(path)] = np.maximum(ends[list(path)], path[-1] + 1)
    nodes, ends_there = torch.arange(size, device=device), torch.from_numpy(ends).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_there[key])

    mask = create_block_mask(sees, B=None, H=None, Q_LEN=size, KV_LEN=size, device=str(device))
    on_gpu = device.type == "cuda"
    attend_flexibly: Any = torch.compile(flex_attention, dynamic=False) if on_gpu else _without_warning(flex_attention)

    def run(q: Tensor, kv: Tensor) -> Tensor:
        parts = (q, *kv.chunk(2, dim=-1))
        heads = (part.unflatten(-1, (num_heads, -1)).transpose(0, 1)[None] for part in parts)  # (1, H, U, W / H)
        mixed: Tensor = attend_flexibly(*heads, block_mask=mask)
        return mixed[0].transpose(0, 1).flatten(1)  # (U, W)

    # On a processor FlexAttention has no backward, and without a compiler it computes every score.
    return _Way(cells=size, scores=size**2, run=run, nodes=nodes, back=nodes, backward=on_gpu)


def _without_warning(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """FlexAttention says at every use that it was not compiled; on a processor only its result is looked at."""

    def quiet(*arguments: Any, **named: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attend(*arguments, **named)

    return quiet


def _packed(paths: Sequence[Path], num_heads: int, device: torch.device) -> _Way:
    unique = sorted(set(paths))
    lengths = [len(path) for path in unique]
    cells = np.concatenate(unique)  # (C,)
    nodes, first = np.unique(cells, return_index=True)  # (U,)
    rows, nodes_there, back = (torch.from_numpy(each).to(device) for each in (cells, nodes, first))
    starts = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32, device=device)  # (E + 1,)
    mix = partial(_one_by_one, lengths) if device.type == "cpu" else partial(_flash, starts, max(lengths))

    def run(q: Tensor, kv: Tensor) -> Tensor:
        copied = (q.index_select(0, rows), *kv.index_select(0, rows).chunk(2, dim=-1))
        mixed = mix(*(part.unflatten(-1, (num_heads, -1)) for part in copied))  # (C, H, W / H)
        return mixed.flatten(1).index_select(0, back)  # (U, W)

    scores = sum(length**2 for length in lengths)
    # Its rows are the nodes already, and so are its results.
    return _Way(cells=len(cells), scores=scores, run=run, nodes=nodes_there, back=nodes_there)


def _flash(starts: Tensor, longest: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of each path, (C, H, W / H) of each to the same."""
    from torch.nn.attention.varlen import varlen_attn

    # PyTorch 2.10 takes is_causal, later ones a window: everything before and nothing behind.
    has_window = "window_size" in inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if has_window else {"is_causal": True}
    mixed = varlen_attn(q, k, v, starts, starts, longest, longest, **causal)
    assert isinstance(mixed, Tensor)  # alone: nothing beside it was asked for
    return mixed


def _one_by_one(lengths: list[int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute what `_flash` does, path by path."""
    parts = zip(*(part.transpose(0, 1).split(lengths, dim=1) for part in (q, k, v)), strict=True)
    return torch.cat([attend(*each, is_causal=True).transpose(0, 1) for each in parts])
