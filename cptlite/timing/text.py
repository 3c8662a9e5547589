"""The text path against the original implementations' way: a step over all classes of a suite, forward and backward.

Axes: T tasks, K classes of all tasks, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from cptlite.backbones import Backbone, TextTower
from cptlite.process import keep_freed_memory
from cptlite.timing.clock import MatmulClock, Patience, peak_mib, seconds_of
from cptlite.timing.ways import CONTEXT_LENGTH, Way, prepare_ways

__all__ = ["bench_text", "linear_weights"]

Tell = Callable[[str], None]


def bench_text(
    backbone: Backbone,
    usual: Backbone,
    suites: Mapping[str, Mapping[str, Sequence[str]]],
    clock: MatmulClock,
    patience: Patience,
    tell: Tell,
    class_fraction: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Time the ways on each suite.

    Parameters
    ----------
    backbone : Backbone
    usual : Backbone
        The same with PyTorch's own linear layers: of the original's way, and the trimmed one.
    suites : mapping of str to mapping of str to sequence of str
        Class names by task, by suite.
    clock : MatmulClock
    patience : Patience
        For each way and quantity.
    tell : callable
        Told what is being done.
    class_fraction : float
        Of class subsampling, for batches of the paper's size; 1 leaves that way out.

    Yields
    ------
    dict
        ``suite``, ``way``, ``rows`` (token rows of the linear layers), ``forward_s``, ``step_s`` (forward and
        backward), ``peak_mib`` (of a step), ``speedup`` (of the step over the original's), ``rate_vs_matmul``,
        ``max_rel_diff`` (from the original; of ``subsampled`` from ``fused`` on the same classes) and ``repeats``.
    """
    for suite, tasks in suites.items():
        ways = prepare_ways(backbone, usual, tasks, class_fraction)
        bench = _prepare_bench(backbone, len(tasks), sum(map(len, tasks.values())), clock, patience)
        _measure(bench, ways, lambda words, suite=suite: tell(f"{suite}, {words}"))  # type: ignore[misc]
        for way in ways:
            yield {"suite": suite} | _figures(way, ways[0]) | {"max_rel_diff": _difference(bench, way, ways)}


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What the ways of a suite are run on and timed with."""

    contexts: Tensor  # (T, L, W)
    weights: Tensor  # (K, D), of the gradient
    flops: int  # of a step, a row
    clock: MatmulClock
    patience: Patience

    def first_run(self, way: Way) -> None:
        """Take the memory of a step; this warms up, and a step that is longer than the patience counts as timed."""
        keep_freed_memory(large=way.keeps_memory)
        before = self.clock.tick()
        way.peak_mib, seconds = peak_mib(lambda: way.run_step(self.contexts, self.weights), self.contexts.device)
        if seconds > self.patience.seconds:
            self._note_step(way, seconds, before)

    def repeat(self, way: Way) -> None:
        """Time a forward, and a step unless the first run is enough."""
        keep_freed_memory(large=way.keeps_memory)
        device = self.contexts.device
        way.forward.seconds.append(seconds_of(lambda: way.run_forward(self.contexts), device))
        if not way.step.seconds or way.step.wants_more(self.patience):
            before = self.clock.tick()
            self._note_step(way, seconds_of(lambda: way.run_step(self.contexts, self.weights), device), before)

    def _note_step(self, way: Way, seconds: float, rate_before: float) -> None:
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


def _measure(bench: _Bench, ways: Sequence[Way], tell: Tell) -> None:
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


def _figures(way: Way, original: Way) -> dict[str, Any]:
    return {
        "way": way.name,
        "rows": way.rows,
        "forward_s": way.forward.median,
        "step_s": way.step.median,
        "peak_mib": way.peak_mib,
        "speedup": original.step.median / way.step.median,
        "rate_vs_matmul": median(way.relative_rates),
        "repeats": len(way.step.seconds),
    }


def _difference(bench: _Bench, way: Way, ways: Sequence[Way]) -> float:
    """Largest difference of features and of gradients, each relative to its largest value."""
    wanted, scored = ways[0].result, way.scored(bench.weights)
    if scored is not bench.weights:  # the original's way would take minutes once more
        (fused,) = (each for each in ways if each.name == "fused")
        fused.run_step(bench.contexts, scored)
        assert fused.result is not None
        wanted = fused.result[0] * way.scored(torch.ones_like(bench.weights)), fused.result[1]
    assert way.result is not None and wanted is not None
    pairs = zip(way.result, wanted, strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def linear_weights(tower: TextTower) -> int:
    """Weights of the transformer's linear layers: what a token row is multiplied with."""
    return sum(parameter.numel() for block in tower.blocks for parameter in block.parameters() if parameter.ndim == 2)
