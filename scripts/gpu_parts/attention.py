"""Ways to attend along a trie's paths, timed against each other: rows in, rows out, at the text tower's width.

``blocks M``: masked attention on blocks of M cells, as `cptlite.text.fused` does it, by the size of a block; ``flex``:
FlexAttention over all rows at once, each seeing its ancestors; ``packed``: every path for itself and whole, one behind
the other, by flash attention of variable length (bf16 alone; on a processor one path at a time).

Axes: U unique rows, E paths, N blocks of M cells, C cells in all, H heads, W text width.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cptlite.backbones.linear import attend
from cptlite.text.layout import PromptLayout, layout_prompts
from cptlite.text.plan import TextPlan, plan_rows
from cptlite.timing.clock import Patience, median_seconds
from cptlite.timing.ways import CONTEXT_LENGTH
from gpu_parts.equality import difference
from gpu_parts.setting import Row, Setting

__all__ = ["attention"]

BLOCK_SIZES = (32, 48, 64, 96, 128, 192)
CALLS = 20  # at a time: one takes less than a clock is worth
Attend = Callable[[Tensor], Tensor]  # from queries, keys and values (U, 3W) to (U, W)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a way attends, over how many cells, and how many scores it computes, or at most computes."""

    cells: int
    scores: int
    run: Attend
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
        for dtype in (torch.bfloat16, torch.float32):
            rows = len(plan_rows(layout).tokens)
            qkv = torch.randn(rows, 3 * tower.width, generator=torch.Generator().manual_seed(0))
            qkv = qkv.to(setting.place, dtype)
            wanted: Tensor | None = None
            for name, make in _ways(layout, num_heads, setting.place, dtype):
                setting.tell(f"{suite}, {name}, {dtype}")
                row = {"suite": suite, "precision": str(dtype).removeprefix("torch."), "rows": rows, "way": name}
                try:
                    way = make()
                    found = way.run(qkv)
                    wanted = found if wanted is None else wanted
                    yield {**row, **_measure(setting, way, qkv), "difference": difference(found, wanted)}
                except Exception as error:  # a kernel or a compiler that is not there: others go on
                    yield {**row, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def _ways(
    layout: PromptLayout, num_heads: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], _Way]]]:
    """Name of each way, and what prepares it."""
    for size in BLOCK_SIZES:
        yield f"blocks {size}", partial(_blocks, layout, size, num_heads, device)
    yield "flex", partial(_flex, layout, num_heads, device)
    if device.type == "cpu" or dtype == torch.bfloat16:
        yield "packed", partial(_packed, layout, num_heads, device)


def _measure(setting: Setting, way: _Way, qkv: Tensor) -> Row:
    """Seconds of one call on queries, keys and values (U, 3W)."""
    calls = 1 if setting.small else CALLS
    patience = Patience(repeats=1 if setting.small else 10, seconds=5.0)
    leaf, pull = qkv.detach().requires_grad_(), torch.ones_like(qkv[:, : qkv.shape[1] // 3])

    def step() -> None:
        for _ in range(calls):
            torch.autograd.grad(way.run(leaf), leaf, pull)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(calls):
            way.run(qkv)

    return {
        "cells": way.cells,
        "scores": way.scores,
        "forward_s": median_seconds(forward, setting.place, patience) / calls,
        "step_s": median_seconds(step, setting.place, patience) / calls if way.backward else None,
    }


def _blocks(layout: PromptLayout, size: int, num_heads: int, device: torch.device) -> _Way:
    plan = plan_rows(layout, block_size=size).to(device)
    rows = plan.block_rows.flatten()

    def run(qkv: Tensor) -> Tensor:
        cells = qkv.index_select(0, rows).unflatten(0, plan.block_rows.shape)  # (N, M, 3W)
        q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in cells.chunk(3, dim=-1))
        mixed = attend(q, k, v, plan.attn_mask[:, None])  # (N, H, M, W / H)
        return mixed.transpose(1, 2).flatten(0, 1).flatten(1).index_select(0, plan.canonical_cells)  # (U, W)

    return _Way(cells=len(rows), scores=plan.attn_mask.numel(), run=run)


def _flex(layout: PromptLayout, num_heads: int, device: torch.device) -> _Way:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    order, ends = _depth_first(_paths(plan_rows(layout)))
    rows, ends_there = torch.from_numpy(order).to(device), torch.from_numpy(ends).to(device)
    back = rows.argsort()

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_there[key])

    mask = create_block_mask(sees, B=None, H=None, Q_LEN=len(order), KV_LEN=len(order), device=str(device))
    on_gpu = device.type == "cuda"
    attend_flexibly: Any = torch.compile(flex_attention, dynamic=False) if on_gpu else _without_warning(flex_attention)

    def run(qkv: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (num_heads, -1)).transpose(0, 1)[None]  # (1, H, U, W / H)
            for part in qkv.index_select(0, rows).chunk(3, dim=-1)
        )
        mixed = attend_flexibly(q, k, v, block_mask=mask)
        return mixed[0].transpose(0, 1).flatten(1).index_select(0, back)  # (U, W)

    # On a processor FlexAttention has no backward, and without a compiler it computes every score.
    return _Way(cells=len(order), scores=len(order) ** 2, run=run, backward=on_gpu)


def _without_warning(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """FlexAttention says at every use that it was not compiled; on a processor only its result is looked at."""

    def quiet(*arguments: Any, **named: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attend(*arguments, **named)

    return quiet


def _packed(layout: PromptLayout, num_heads: int, device: torch.device) -> _Way:
    paths = _paths(plan_rows(layout))
    lengths = [len(path) for path in paths]
    cells = np.concatenate(paths)  # (C,)
    _, first = np.unique(cells, return_index=True)  # (U,)
    rows, canonical = torch.from_numpy(cells).to(device), torch.from_numpy(first).to(device)
    starts = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32, device=device)  # (E + 1,)
    mix = partial(_one_by_one, lengths) if device.type == "cpu" else partial(_flash, starts, max(lengths))

    def run(qkv: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (num_heads, -1)) for part in qkv.index_select(0, rows).chunk(3, dim=-1))
        return mix(q, k, v).flatten(1).index_select(0, canonical)  # of (C, H, W / H), (U, W)

    return _Way(cells=len(cells), scores=sum(length**2 for length in lengths), run=run)


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


def _paths(plan: TextPlan) -> list[np.ndarray]:
    """Rows on the way to each EOS row, SOS first, neighbours in the trie beside each other."""
    size = plan.block_rows.shape[1]
    found = []
    for cell in plan.canonical_cells[plan.eos_rows].tolist():
        seen = plan.attn_mask[cell // size, cell % size]
        rows = plan.block_rows[cell // size][seen]
        found.append(rows[plan.positions[rows].argsort()].numpy())
    return sorted(found, key=lambda path: path.tolist())


def _depth_first(paths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All rows, each before what comes after it on some path; and for each place the one after its last descendant."""
    cells = np.concatenate(paths)
    rows, first = np.unique(cells, return_index=True)
    order = rows[first.argsort()]  # (U,)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    ends = np.zeros(len(order), np.int64)
    for path in paths:
        ends[places[path]] = places[path[-1]] + 1
    return order, ends
