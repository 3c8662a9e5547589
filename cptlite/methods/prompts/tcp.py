"""TCP: class prompts, made of the template's class weights, enter the text tower half-way.

Yao et al., "TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model" (CVPR 2024); code
htyao89/Textual-based_Class-aware_prompt_tuning @bd97bec.

Axes: R runs trained together, T tasks, K classes in task-major order, G hidden units of a meta net, L context tokens,
W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.methods.base import Problem, new_linear
from cptlite.methods.batches import take
from cptlite.methods.options import TemplateOptions
from cptlite.methods.prompts.kgcoop import KgCoOp
from cptlite.options import option
from cptlite.text.parted import PartedEncoder

__all__ = ["TCP", "TCPOptions"]


@dataclass(frozen=True, kw_only=True)
class TCPOptions(TemplateOptions):
    """Options of `TCP`; the class name stands at the end, so that class prompts take the context's place."""

    context_length: int = option(
        4, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    context_init: str = option("", "Words to start the class context from, which set its length; else noise.")
    strength: float = option(8.0, "Factor on the pull towards the template.", least=0)
    block: int = option(
        0, "Text block before which class prompts enter, counted from 0; 0: two thirds of them, 8 of 12.", least=0
    )
    reduction: int = option(4, "Hidden units of the meta net are the joint dimension over this.", least=1)

    @property
    def position(self) -> str:
        """Where the class name stands."""
        return "end"


class TCP(KgCoOp):
    """KgCoOp whose contexts give way, at a block of the text tower, to prompts made of each class's template.

    Parameters
    ----------
    problem : Problem
    options : TCPOptions
    runs : int

    Notes
    -----
    z_k = the template's unit-length class weight; q_k = A_2 quickgelu(A_1 z_k + a_1) + a_2, reshaped to (L, W), with
    G = D / 4 hidden units. w_k = normalise(text([SOS] S_t(k) class_k . [EOS])), where q_k replaces what the blocks
    before number 8 of 12 made of S. loss = cross-entropy + strength * (1 - mean over the task's classes of
    cos(w_k, z_k)). T (L W + G (D + 1) + L W (G + 1)) numbers are learned; S starts from noise, the net as PyTorch's
    linear layers do.

    Adam with the decay in the gradient and an epsilon of 1e-3, as published for half precision. A tower of other depth
    takes class prompts after the same two thirds of its blocks, where the original has an 8 written in. The template
    is the dataset's own, and prompts end with the class name, where the original keeps a list of its own per dataset.
    Tasks are learned one at a time unless told otherwise, as published; jointly, each has a net and a context of its
    own. A batch of some classes encodes all of them.
    """

    options: TCPOptions  # type: ignore[assignment]
    _encode: PartedEncoder  # type: ignore[assignment]

    def __init__(self, problem: Problem, options: TCPOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs)  # type: ignore[arg-type]

    def new_encoder(self, contexts: Sequence[int]) -> PartedEncoder:  # type: ignore[override]
        """Prepare prompts that part at the block."""
        count = len(self.problem.text.tower.blocks)
        return PartedEncoder(
            self.problem.text,
            self.problem.class_names,
            context_length=self.context_length,
            contexts=contexts,
            block=self.options.block or max(1, min(count - 1, round(count * 2 / 3))),
            runs=self.runs,
        )

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``context`` (T, L, W) and the nets: ``hidden`` (T, G, D), ``prompt`` (T, L W, G) and their biases."""
        found, tower = super().start(generator), self.problem.text.tower
        dim = tower.projection.shape[1]
        hidden = max(1, dim // self.options.reduction)
        layers = {"hidden": (hidden, dim), "prompt": (self.context_length * tower.width, hidden)}
        for name, shape in layers.items():
            drawn = [new_linear(shape, generator, tower.device) for _ in self.problem.tasks]
            for part in ("weight", "bias"):
                found[f"{name}.{part}"] = nn.Parameter(torch.stack([each[part].detach() for each in drawn]))
        return found

    def class_prompts(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Make what stands in each class's context from the block on: Tensor of shape (R, K, L, W)."""
        each = []
        for task, (start, stop) in enumerate(self.problem.class_ranges):
            own = {name: value[:, task] for name, value in learnables.items()}
            hidden = self._anchors[start:stop] @ own["hidden.weight"].mT + own["hidden.bias"][:, None]  # (R, c, G)
            hidden = hidden * (1.702 * hidden).sigmoid()
            each.append(hidden @ own["prompt.weight"].mT + own["prompt.bias"][:, None])  # (R, c, L * W)
        return torch.cat(each, dim=1).unflatten(-1, (self.context_length, -1))

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Unit-length class weights: Tensor of shape (R, K, D), float32."""
        return F.normalize(self._encode(learnables["context"], self.class_prompts(learnables)), dim=-1)

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q), taken from those of all: Tensor of shape (R, Q, D)."""
        return take(self.class_weights(learnables), classes)
