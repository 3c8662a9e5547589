"""The text path against the original implementations' way: a step over all classes of a suite, forward and backward.

Ways, slowest first: ``original`` runs one forward per task with every prompt padded to 77 positions, as CoOp and
SoftCPT do; ``trimmed`` pads to the longest prompt of the task; ``fused`` is `cptlite.text.fused` over all tasks at
once.

Axes: T tasks, K classes of all tasks, k of one task, S positions, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from cptlite.backbones import Backbone, TextTower
from cptlite.text.fused import prepare_fused
from cptlite.text.layout import PromptLayout, layout_prompts
from cptlite.text.plain import prepare_plain
from cptlite.text.plan import count_rows
from cptlite.timing.clock import MatmulClock, Patience, Samples, peak_mib, seconds_of

__all__ = ["WAYS", "bench_text", "linear_weights"]

CONTEXT_LENGTH = 16
WAYS = ("original", "trimmed", "fused")
Encode = Callable[[Tensor], Tensor]
Part = tuple[slice, slice, Encode]
Tell = Callable[[str], None]


@dataclass(kw_only=True)
class _Way:
    """One way to encode a suite's prompts, as parts that run one after the other.

    A step's backward runs after each part's forward: the graph of all tasks at once would not fit into memory.
    """

    name: str
    rows: int
    parts: list[Part]  # contexts, classes, and the encoder from (T' * L, W) to (K', D)
    forward: Samples = field(default_factory=Samples)
    step: Samples = field(default_factory=Samples)
    relative_rates: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    result: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def run_forward(self, contexts: Tensor) -> Tensor:
        """From contexts (T, L, W) to features (K, D)."""
        return torch.cat([encode(contexts[tasks].flatten(0, 1)) for tasks, _, encode in self.parts])

    def run_step(self, contexts: Tensor, weights: Tensor) -> None:
        """Features (K, D), and the gradient of their product with ``weights`` (K, D) in the contexts (T, L, W)."""
        gradient = torch.empty_like(contexts)
        features = []
        for tasks, classes, encode in self.parts:
            leaf = contexts[tasks].detach().requires_grad_()
            encoded = encode(leaf.flatten(0, 1))  # (k, D)
            (gradient[tasks],) = torch.autograd.grad(encoded, leaf, weights[classes])
            features.append(encoded.detach())
        self.result = torch.cat(features), gradient


def bench_text(
    backbone: Backbone,
    suites: Mapping[str, Mapping[str, Sequence[str]]],
    clock: MatmulClock,
    patience: Patience,
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Time the ways on each suite.

    Parameters
    ----------
    backbone : Backbone
    suites : mapping of str to mapping of str to sequence of str
        Class names by task, by suite.
    clock : MatmulClock
    patience : Patience
        For each way and quantity.
    tell : callable
        Told what is being done.

    Yields
    ------
    dict
        ``suite``, ``way``, ``rows`` (token rows of the linear layers), ``forward_s``, ``step_s`` (forward and
        backward), ``peak_mib`` (of a step), ``speedup`` (of the step over the original's), ``rate_vs_matmul``,
        ``max_rel_diff`` (from the original) and ``repeats``.
    """
    for suite, tasks in suites.items():
        ways = _prepare_ways(backbone, tasks)
        bench = _prepare_bench(backbone, len(tasks), sum(map(len, tasks.values())), clock, patience)
        _measure(bench, ways, lambda words, suite=suite: tell(f"{suite}, {words}"))  # type: ignore[misc]
        for way in ways:
            yield {"suite": suite} | _figures(way, ways[0])


def _prepare_ways(backbone: Backbone, tasks: Mapping[str, Sequence[str]]) -> list[_Way]:
    tower = backbone.text_tower
    layouts = [_layout(backbone, names, [0] * len(names)) for names in tasks.values()]
    owners = [index for index, names in enumerate(tasks.values()) for _ in names]
    together = _layout(backbone, [name for names in tasks.values() for name in names], owners)
    padded = len(owners) * tower.context_length
    trimmed = sum(layout.tokens.size for layout in layouts)
    whole = (slice(None), slice(None), prepare_fused(tower, together))
    return [
        _Way(name="original", rows=padded, parts=_by_task(layouts, lambda layout: prepare_plain(tower, layout))),
        _Way(name="trimmed", rows=trimmed, parts=_by_task(layouts, lambda layout: _prepare_trimmed(tower, layout))),
        _Way(name="fused", rows=count_rows(together), parts=[whole]),
    ]


def _layout(backbone: Backbone, names: Sequence[str], owners: Sequence[int]) -> PromptLayout:
    return layout_prompts(
        names,
        backbone.tokenizer,
        context_length=CONTEXT_LENGTH,
        contexts=owners,
        max_positions=backbone.text_tower.context_length,
    )


def _by_task(layouts: Sequence[PromptLayout], prepare: Callable[[PromptLayout], Any]) -> list[Part]:
    """One part per task."""
    parts = []
    start = 0
    for index, layout in enumerate(layouts):
        parts.append((slice(index, index + 1), slice(start, start + len(layout)), prepare(layout)))
        start += len(layout)
    return parts


def _prepare_trimmed(tower: TextTower, layout: PromptLayout) -> Encode:
    """Prepare CLIP's own blocks, on S positions instead of 77."""
    tokens, slots, eos_positions = (
        torch.from_numpy(array).to(tower.device) for array in (layout.tokens, layout.slots, layout.eos_positions)
    )
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf"), device=tower.device, dtype=tower.dtype).triu(1)

    def encode(contexts: Tensor) -> Tensor:
        words = tower.token_embedding[tokens].to(tower.dtype)  # (k, S, W)
        vectors = contexts.to(tower.dtype)[slots.clamp(min=0)]  # (k, S, W)
        x = torch.where((slots >= 0)[..., None], vectors, words)
        x = (x + tower.positional_embedding[:length].to(tower.dtype)).transpose(0, 1)  # (S, k, W)
        for block in tower.blocks:
            normed = block.ln_1(x)
            x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp(block.ln_2(x))
        x = tower.final_norm(x[eos_positions, torch.arange(len(layout), device=x.device)])  # (k, W)
        return (x @ tower.projection).float()

    return encode


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What the ways of a suite are run on and timed with."""

    contexts: Tensor  # (T, L, W)
    weights: Tensor  # (K, D), of the gradient
    flops: int  # of a step, a row
    clock: MatmulClock
    patience: Patience

    def first_run(self, way: _Way) -> None:
        """Take the memory of a step; this warms up, and a step that is longer than the patience counts as timed."""
        before = self.clock.tick()
        way.peak_mib, seconds = peak_mib(lambda: way.run_step(self.contexts, self.weights), self.contexts.device)
        if seconds > self.patience.seconds:
            self._note_step(way, seconds, before)

    def repeat(self, way: _Way) -> None:
        """Time a forward, and a step unless the first run is enough."""
        device = self.contexts.device
        way.forward.seconds.append(seconds_of(lambda: way.run_forward(self.contexts), device))
        if not way.step.seconds or way.step.wants_more(self.patience):
            before = self.clock.tick()
            self._note_step(way, seconds_of(lambda: way.run_step(self.contexts, self.weights), device), before)

    def _note_step(self, way: _Way, seconds: float, rate_before: float) -> None:
        rate = (rate_before + self.clock.tick()) / 2
        way.step.seconds.append(seconds)
        way.relative_rates.append(self.flops * way.rows / seconds / rate)


def _prepare_bench(
    backbone: Backbone, num_tasks: int, num_classes: int, clock: MatmulClock, patience: Patience
) -> _Bench:
    tower, generator = backbone.text_tower, torch.Generator().manual_seed(0)
    contexts = torch.randn(num_tasks, CONTEXT_LENGTH, tower.width, generator=generator) * 0.02
    weights = torch.randn(num_classes, backbone.embed_dim, generator=generator)
    return _Bench(
        contexts=contexts.to(backbone.device),
        weights=weights.to(backbone.device),
        # A multiplication and an addition, forward and backward; frozen weights have no gradients of their own.
        flops=2 * 2 * linear_weights(tower),
        clock=clock,
        patience=patience,
    )


def _measure(bench: _Bench, ways: Sequence[_Way], tell: Tell) -> None:
    """Time the ways in turn, so that a machine that slows down does so for all of them."""
    for way in ways:
        tell(f"{way.name}: memory")
        bench.first_run(way)
    turn = 0
    while busy := [way for way in ways if not way.forward.seconds or way.step.wants_more(bench.patience)]:
        turn += 1
        for way in busy:
            tell(f"{way.name}: repeat {turn}")
            bench.repeat(way)


def _figures(way: _Way, original: _Way) -> dict[str, Any]:
    return {
        "way": way.name,
        "rows": way.rows,
        "forward_s": way.forward.median,
        "step_s": way.step.median,
        "peak_mib": way.peak_mib,
        "speedup": original.step.median / way.step.median,
        "rate_vs_matmul": median(way.relative_rates),
        "max_rel_diff": _difference(way, original),
        "repeats": len(way.step.seconds),
    }


def _difference(way: _Way, original: _Way) -> float:
    """Largest difference of features and of gradients, each relative to its largest value."""
    assert way.result is not None and original.result is not None
    pairs = zip(way.result, original.result, strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def linear_weights(tower: TextTower) -> int:
    """Weights of the transformer's linear layers: what a token row is multiplied with."""
    return sum(parameter.numel() for block in tower.blocks for parameter in block.parameters() if parameter.ndim == 2)
