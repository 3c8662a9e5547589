"""APE-T: a residual of each class, added to its text and its keys in the channels that tell classes apart.

Zhu et al., "Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement" (ICCV 2023).

Axes: C classes of one task, N training rows, B rows of a batch, Q channels with a residual, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.classifiers import APEClassifier, Classifier, exp32, votes
from cptlite.classifiers.joined import join_classifiers
from cptlite.methods.options import TemplateOptions
from cptlite.methods.probes.ape_channels import channel_criterion, num_channels, search_votes, select_channels
from cptlite.methods.probes.estimator import LOGIT_SCALE, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.view_batches import count_batches, draw_batches
from cptlite.options import option

__all__ = ["APET", "APETOptions", "Refinement"]

EPSILON, DECAY = 1e-3, 0.1


@dataclass(frozen=True, kw_only=True)
class APETOptions(TemplateOptions):
    """Options of `APET`."""

    alpha: float | None = option(None, "Weight of the votes; by default chosen on validation rows.", least=0)
    beta: float | None = option(None, "Sharpness of the votes; by default chosen on validation rows.", least=0)
    epochs: int = option(20, "Passes over the training rows.", least=1)
    lr: float = option(1e-3, "Learning rate of AdamW at the start.", above=0)
    keep: float = option(0.78125, "Share of the features' channels that have a residual.", above=0, most=1)
    similarity_weight: float = option(
        0.2, "Of the similarity between classes in the choice of channels; the rest is the variance's.", least=0, most=1
    )


class APET(TextClassifier):
    """Texts and keys moved class by class, and a learned weight of each key's vote.

    Parameters
    ----------
    text_weights, classes, logit_scale
        As in `TextClassifier`.
    alpha, beta : float, optional
        Weight and sharpness of the votes: in training these or 1, the original's start. None is chosen anew on
        validation rows after it (and is in ``choices_``).
    epochs : int
        Passes over the training rows.
    lr : float
        Learning rate of AdamW at the start.
    keep, similarity_weight : float
        As in `cptlite.methods.probes.ape.APE`.
    random_state : int, RandomState or None
        Draws batches and views; None takes PyTorch's global generator.

    Notes
    -----
    score = exp(logit_scale) x . (t_k + R_k) + alpha sum_n v_n exp(-beta (1 - x . (F_n + R_k))), the sum over the keys
    F_n of class k, nothing at unit length again. R_k is not 0 in Q channels alone, those of APE's criterion over texts
    without keys. R starts at 0, v at 1. AdamW on the cross-entropy of the training rows, epsilon 1e-3, decay 0.1, a
    cosine over all steps, batch 256, a random one of views 1 and up where there are any. C Q + N numbers are learned.

    Deviations: the original keeps the epoch that is best on validation rows and prints it as the test's; here the last
    one is kept. Its call of this method is commented out, reads the channels from a file of APE's, and fits only where
    both have as many. It sets rate (1e-3, 1e-4), epochs (20 to 200), channels and w by hand for each dataset; here they
    are options. Its texts are several a class, with descriptions; here the dataset's template.
    """

    starts = {"alpha": 1.0, "beta": 1.0}

    def __init__(
        self,
        text_weights: Any = None,
        classes: Any = None,
        logit_scale: float = LOGIT_SCALE,
        alpha: float | None = None,
        beta: float | None = None,
        epochs: int = APETOptions.epochs,
        lr: float = APETOptions.lr,
        keep: float = APETOptions.keep,
        similarity_weight: float = APETOptions.similarity_weight,
        random_state: Any = None,
    ) -> None:
        super().__init__(text_weights, classes, logit_scale)
        self.alpha = alpha
        self.beta = beta
        self.epochs = epochs
        self.lr = lr
        self.keep = keep
        self.similarity_weight = similarity_weight
        self.random_state = random_state

    def learn(self, rows: TaskRows, generator: torch.Generator | None = None) -> Fitted:
        """Select channels, train residual and weights, and choose alpha and beta anew."""
        text, y, (alpha, beta) = rows.text, rows.y, self.start_values().values()
        assert text is not None
        scale = exp32(rows.logit_scale)
        criterion = channel_criterion(text, text, self.similarity_weight)
        refined = Refinement.begin(
            text=text,
            keys=F.normalize(rows.units.mean(dim=1), dim=-1),
            y=y,
            channels=select_channels(criterion, num_channels(self.keep, text.shape[1])),
            scale=scale,
        )
        refined.train(
            draw_batches(rows.units, self.epochs, generator),
            count_batches(len(y), self.epochs),
            alpha=alpha,
            beta=beta,
            lr=self.lr,
        )
        weights, keys, choices = *refined.moved(), {}
        if self.chooses and len(rows.y_val):
            alpha, beta, _ = search_votes(
                scale * rows.units_val @ weights.T,
                rows.units_val @ keys.T,
                refined.key_weights[None],
                y,
                rows.y_val,
                alphas=None if self.alpha is None else [self.alpha],
                betas=None if self.beta is None else [self.beta],
            )
            choices = self.chosen_of({"alpha": alpha, "beta": beta})
        classifier = APEClassifier(
            weights=weights,
            keys=keys,
            key_labels=y,
            key_weights=refined.key_weights,
            channels=torch.arange(text.shape[1], device=text.device),
            logit_scale=rows.logit_scale,
            alpha=alpha,
            beta=beta,
        )
        return Fitted(
            classifier=classifier,
            num_parameters=refined.residual.numel() + refined.key_weights.numel(),
            choices=choices,
        )

    @staticmethod
    def join(parts: Sequence[APEClassifier]) -> Classifier:
        """One classifier of all tasks."""
        return parts[0] if len(parts) == 1 else join_classifiers(parts, [len(part.weights) for part in parts])


@dataclass(kw_only=True)
class Refinement:
    """What is learned of one task, and what it is added to.

    Attributes
    ----------
    text, keys : Tensor of shape (C, D) and (N, D)
        Unit length.
    y : Tensor of shape (N,), int64
    channels : Tensor of shape (Q,), int64
    scale : float
        On the cosines with texts.
    residual : Tensor of shape (C, Q)
    key_weights : Tensor of shape (N,)
    """

    text: Tensor
    keys: Tensor
    y: Tensor
    channels: Tensor
    scale: float
    residual: Tensor
    key_weights: Tensor

    @classmethod
    def begin(cls, *, text: Tensor, keys: Tensor, y: Tensor, channels: Tensor, scale: float) -> Refinement:
        """Start without a residual, every vote counted once."""
        return cls(
            text=text,
            keys=keys,
            y=y,
            channels=channels,
            scale=scale,
            residual=text.new_zeros(len(text), len(channels)),
            key_weights=keys.new_ones(len(keys)),
        )

    def moved(self) -> tuple[Tensor, Tensor]:
        """Texts (C, D) and keys (N, D) with the residual of their class."""
        residual = torch.zeros_like(self.text).index_copy(1, self.channels, self.residual)  # (C, D)
        return self.text + residual, self.keys + residual[self.y]

    def logits(self, x: Tensor, alpha: float, beta: float) -> Tensor:
        """Scores of unit-length rows, (B, D) to (B, C)."""
        text, keys = self.moved()
        return self.scale * x @ text.T + alpha * votes(x @ keys.T, self.y, beta, len(text), self.key_weights)

    def train(
        self, batches: Iterable[tuple[Tensor, Tensor]], steps: int, *, alpha: float, beta: float, lr: float
    ) -> list[float]:
        """Learn in place from batches of unit-length rows (B, D) and which rows they are (B,).

        Returns
        -------
        list of float
            The loss before each step.
        """
        learned = [self.residual.requires_grad_(), self.key_weights.requires_grad_()]
        optimizer = torch.optim.AdamW(learned, lr=lr, eps=EPSILON, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        losses = []
        for x, picked in batches:
            loss = F.cross_entropy(self.logits(x, alpha, beta), self.y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        self.residual, self.key_weights = (each.detach() for each in learned)
        return torch.stack(losses).tolist()
