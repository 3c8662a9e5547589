"""The ways to encode a suite's prompts that `cptlite.timing.text` times, slowest first.

``original`` runs one forward per task with every prompt padded to 77 positions, as CoOp and SoftCPT do; ``trimmed``
pads to the longest prompt of the task; ``fused`` is `cptlite.text.fused` over all tasks at once; ``subsampled``, where
a share of the classes is given, is a step of class subsampling: the classes for a batch are drawn anew and encoded
alone.

Axes: T tasks, K classes of all tasks, k of one task, Q that a batch scores, S positions, L context tokens, W text
width, D joint dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cptlite.backbones import Backbone, TextTower
from cptlite.text.encoder import PromptEncoder, TextEncoder
from cptlite.text.fused import prepare_fused
from cptlite.text.layers import freeze_layers
from cptlite.text.layout import PromptLayout, layout_prompts
from cptlite.text.picking import PromptPicker
from cptlite.text.plain import prepare_plain
from cptlite.text.plan import count_rows
from cptlite.timing.clock import Samples
from cptlite.training.recipe import Recipe
from cptlite.training.sampling import ClassSampler

__all__ = ["CONTEXT_LENGTH", "Way", "prepare_ways"]

CONTEXT_LENGTH = 16
Encode = Callable[[Tensor], Tensor]
Part = tuple[slice, slice, Encode]


@dataclass(kw_only=True)
class Way(ABC):
    """One way to encode a suite's prompts.

    Attributes
    ----------
    name : str
    rows : int
        Token rows of the linear layers, in a step.
    keeps_memory : bool
        Whether large tensors that it frees are kept, as `train` does. The original's way does not, whose tasks have so
        many sizes that 24 GiB would not be enough.
    forward, step : Samples
    relative_rates : list of float
        Of each step, over the matrix products'.
    peak_mib : float
    result : tuple of Tensor, optional
        Features (K, D) and gradient (T, L, W) of the last step.
    """

    name: str
    rows: int
    keeps_memory: bool = True
    forward: Samples = field(default_factory=Samples)
    step: Samples = field(default_factory=Samples)
    relative_rates: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    result: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def run_forward(self, contexts: Tensor) -> None:
        """Encode with contexts (T, L, W)."""

    @abstractmethod
    def run_step(self, contexts: Tensor, weights: Tensor) -> None:
        """Features, and the gradient of their product with ``weights`` (K, D) in the contexts (T, L, W)."""

    def scored(self, weights: Tensor) -> Tensor:
        """Weights (K, D) of the classes that the last step scored, zero for the others."""
        return weights


@dataclass(kw_only=True)
class _AllClasses(Way):
    """All prompts, as parts that run one after the other.

    A step's backward runs after each part's forward: the graph of all tasks at once would not fit into memory.
    """

    parts: list[Part]  # contexts, classes, and the encoder from (T' * L, W) to (K', D)

    @torch.no_grad()
    def run_forward(self, contexts: Tensor) -> None:
        for tasks, _, encode in self.parts:
            encode(contexts[tasks].flatten(0, 1))

    def run_step(self, contexts: Tensor, weights: Tensor) -> None:
        gradient = torch.empty_like(contexts)
        features = []
        for tasks, classes, encode in self.parts:
            leaf = contexts[tasks].detach().requires_grad_()
            encoded = encode(leaf.flatten(0, 1))  # (k, D)
            (gradient[tasks],) = torch.autograd.grad(encoded, leaf, weights[classes])
            features.append(encoded.detach())
        self.result = torch.cat(features), gradient


@dataclass(kw_only=True)
class _SomeClasses(Way):
    """The classes that a batch scores, drawn in every run; features of the others are zero."""

    picker: PromptPicker
    sampler: ClassSampler
    generator: torch.Generator
    kept: Tensor  # (K, 1), 1 for the classes of the last step

    @torch.no_grad()
    def run_forward(self, contexts: Tensor) -> None:
        self.picker(contexts[None], self._draw())

    def run_step(self, contexts: Tensor, weights: Tensor) -> None:
        classes = self._draw()  # (1, Q)
        picks, counts = classes[0].clamp(min=0), (classes[0] >= 0).float()[:, None]  # (Q,), (Q, 1)
        leaf = contexts.detach().requires_grad_()
        encoded = self.picker(leaf[None], classes)[0]  # (Q, D)
        (gradient,) = torch.autograd.grad(encoded, leaf, weights[picks] * counts)
        self.kept = torch.zeros_like(self.kept).index_add(0, picks, counts)
        self.result = torch.zeros_like(weights).index_add(0, picks, encoded.detach() * counts), gradient

    def scored(self, weights: Tensor) -> Tensor:
        return weights * self.kept

    def _draw(self) -> Tensor:
        labels = torch.randint(len(self.kept), (Recipe.batch_size,), generator=self.generator).to(self.kept.device)
        classes = self.sampler.draw(labels, self.generator)  # (Q,)
        groups = self.picker.groups(classes.clamp(min=0), 1)
        self.rows = self.picker.count_rows(len(self.sampler.task_sizes), groups)
        return classes[None]


def prepare_ways(
    backbone: Backbone, usual: Backbone, tasks: Mapping[str, Sequence[str]], class_fraction: float
) -> list[Way]:
    """Prepare the ways on class names by task, ``original`` and ``trimmed`` on the usual backbone.

    A fraction of 1 leaves ``subsampled`` out.
    """
    tower, usual_tower = backbone.text_tower, usual.text_tower
    for layer in freeze_layers(tower):  # weights, packed too, are no part of a step's memory
        layer.pack()
    layouts = [_layout(backbone, names, [0] * len(names)) for names in tasks.values()]
    owners = [index for index, names in enumerate(tasks.values()) for _ in names]
    together = _layout(backbone, [name for names in tasks.values() for name in names], owners)
    padded = len(owners) * tower.context_length
    trimmed = sum(layout.tokens.size for layout in layouts)
    whole = (slice(None), slice(None), prepare_fused(tower, together))
    plain, cut = (partial(prepare, usual_tower) for prepare in (prepare_plain, _prepare_trimmed))
    ways: list[Way] = [
        _AllClasses(name="original", rows=padded, parts=_by_task(layouts, plain), keeps_memory=False),
        _AllClasses(name="trimmed", rows=trimmed, parts=_by_task(layouts, cut), keeps_memory=False),
        _AllClasses(name="fused", rows=count_rows(together), parts=[whole]),
    ]
    if class_fraction < 1:
        sizes = [len(names) for names in tasks.values()]
        ways.append(
            _SomeClasses(
                name="subsampled",
                rows=0,
                picker=PromptEncoder(TextEncoder(tower, backbone.tokenizer), together, runs=1).picker,
                sampler=ClassSampler(sizes, class_fraction, Recipe.batch_size, tower.device),
                generator=torch.Generator().manual_seed(0),
                kept=torch.zeros(len(owners), 1, device=tower.device),
            )
        )
    return ways


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
