"""Contexts mixed of base vectors that have few numbers: after CK-CoOp's description.

Ding et al., "Compositional Kronecker Context Optimization for Vision-Language Models" (arXiv 2403.11631, 2024), whose
code and constants are not public: what is not in its abstract is this file's own.

Axes: R runs trained together, T tasks, L context tokens, E base vectors, V words of the vocabulary, W text width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from cptlite.backbones import TextTower
from cptlite.methods.base import Problem
from cptlite.methods.options import MethodOptions, PromptOptions
from cptlite.methods.prompts.coop import CoOp
from cptlite.options import option

__all__ = ["KronCtx", "KronCtxOptions", "kronecker_product", "token_centres"]

GRAIN = 16  # side of a factor, where that divides the other side: 64 base vectors of 512 are (4, 16) and (16, 32)
ROWS = 4096  # of a step of k-means
_CENTRES: WeakKeyDictionary[TextTower, dict[int, Tensor]] = WeakKeyDictionary()  # by text tower and E


@dataclass(frozen=True, kw_only=True)
class KronCtxOptions(MethodOptions):
    """Options of `KronCtx`; its contexts start from noise."""

    context_length: int = option(
        16, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    position: str = option("end", "Where the class name stands.", choices=("end", "middle", "front"))
    num_bases: int = option(64, "Base vectors that context tokens are mixed of.", least=1, most=4096)


class KronCtx(CoOp):
    """CoOp with one context per task, whose tokens are learned mixtures of base vectors.

    Parameters
    ----------
    problem : Problem
    options : KronCtxOptions
    runs : int

    Notes
    -----
    S_t = A_t (C + P_t kron Q_t), with C the centres of the text encoder's token embeddings by k-means, which are not
    learned; w_k and loss are CoOp's. Learned of each task are A (L, E), P (r1, w1) and Q (r2, w2), r1 r2 = E and
    w1 w2 = W.

    After the description of CK-CoOp: learned combinations of base vectors, which are k-means centres and a learnable
    part made by a Kronecker product of small matrices. Its numbers are not public. Ours: E = 64 centres, by
    scikit-learn's MiniBatchKMeans from a fixed seed; r2 = w1 = 16 where that divides E and W; A and P from N(0, 1 / E),
    Q from zeros, so that a training begins at mixtures of centres; no bias; CoOp's recipe.
    """

    def __init__(self, problem: Problem, options: KronCtxOptions, runs: int = 1) -> None:
        as_coop = PromptOptions(context_length=options.context_length, position=options.position)
        super().__init__(problem, as_coop, runs, sharing="task")
        self.centres = token_centres(problem.text.tower, options.num_bases)  # (E, W)

    def start(self, generator: torch.Generator) -> dict[str, nn.Parameter]:
        """Draw ``mixture`` (A), (T, L, E), and ``outer`` (P), (T, r1, w1); ``inner`` (Q) is zeros, (T, r2, w2)."""
        bases, width = self.centres.shape
        rows, columns = math.gcd(GRAIN, bases), math.gcd(GRAIN, width)
        tasks, device = self.num_contexts, self.centres.device
        mixture = torch.randn(tasks, self.context_length, bases, generator=generator) / math.sqrt(bases)
        outer = torch.randn(tasks, bases // rows, columns, generator=generator) / math.sqrt(bases)
        inner = torch.zeros(tasks, rows, width // columns)
        named = {"mixture": mixture, "outer": outer, "inner": inner}
        return {name: nn.Parameter(value.to(device)) for name, value in named.items()}

    def contexts(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Mix them: Tensor of shape (R, T, L, W)."""
        learned = kronecker_product(learnables["outer"], learnables["inner"])  # (R, T, E, W)
        return learnables["mixture"] @ (self.centres + learned)


def kronecker_product(outer: Tensor, inner: Tensor) -> Tensor:
    """Kronecker product of matrices (..., a, b) and (..., c, d): Tensor of shape (..., a c, b d)."""
    blocks = outer[..., :, None, :, None] * inner[..., None, :, None, :]  # (..., a, c, b, d)
    return blocks.flatten(-2).flatten(-3, -2)


def token_centres(tower: TextTower, count: int) -> Tensor:
    """Centres of a text tower's token embeddings by k-means, (E, W), float32; found once in the life of a tower.

    The same for the same weights, whatever a run's seed: they are frozen, as the tower is.
    """
    known = _CENTRES.setdefault(tower, {})
    if count not in known:
        words = tower.token_embedding.detach().float().cpu().numpy()  # (V, W)
        means = MiniBatchKMeans(min(count, len(words)), batch_size=ROWS, n_init=1, random_state=0).fit(words)
        known[count] = torch.from_numpy(means.cluster_centers_).float().to(tower.device)
    return known[count]
