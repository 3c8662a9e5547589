"""ArGue's text half: prompts of a class's attributes, and of backgrounds that say nothing of it.

Tian et al., "ArGue: Attribute-Guided Prompt Tuning for Vision-Language Models" (CVPR 2024).

Axes: R runs trained together, T tasks, K classes in task-major order, Q of them that are scored, A attributes of a
class at most, P of all classes, B images, L context tokens, W text width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch, Scored, cross_entropy, take
from cptlite.methods.class_texts import ClassTexts, check_class_texts
from cptlite.methods.options import PromptOptions, ReferenceOptions
from cptlite.methods.prompts.text_to_text import TextToText
from cptlite.options import option

__all__ = ["ArgueNText", "ArgueNTextOptions", "ArgueText", "ArgueTextOptions", "certainty"]


@dataclass(frozen=True, kw_only=True)
class ArgueTextOptions(ReferenceOptions, PromptOptions):
    """Options of `ArgueText`."""

    context_length: int = 4
    context_init: str = "a photo of a"
    templates: tuple[str, ...] = option((), "Reference prompt with {} for the class name, in place of LASP's 35.")
    attributes: str = option("", "JSON file of texts by class, or by task and class; without one, names alone.")
    strength: float = option(5.0, "Factor on the text-to-text loss.", least=0)
    correction: bool = option(True, "Learn a vector that is added to text features.")


class ArgueText(TextToText):
    """Class weights that are the mean over prompts of a class's attributes, around one context per task.

    Parameters
    ----------
    problem : Problem
    options : ArgueTextOptions
    runs : int

    Notes
    -----
    v_ka = normalise(text([SOS] S_t name_k attribute_ka . [EOS]) + c_t); the score of class k is the mean of those of
    its attributes, exp(logit_scale) x . v_ka, and so that of a weight w_k = mean over a of v_ka, which is *not* unit
    length. loss = cross-entropy + strength * text-to-text loss, the latter of prompts of the bare names, as
    `TextToText` says. T L W + T D numbers are learned.

    Attributes are given for each class; a text that begins with the class's name is taken as it is. Without a file each
    class has its bare name: what is left then is LASP's text half.

    Deviations, beside those of `TextToText`: the image tower's layer norms, which the released configuration trains
    too, are frozen; all attributes given are taken, where the original keeps two or three of a class, by clusters and
    by their likeness to training images; the gradient's norm is not clipped at 1. Learned jointly, which the original
    does not do, each image counts its own task's loss, over the classes of that task; where some classes alone are
    scored, over these.

    Raises
    ------
    DataError
        A class has no attributes in the file.
    """

    options: ArgueTextOptions

    def __init__(self, problem: Problem, options: ArgueTextOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs, templates=options.templates, correction=options.correction)
        names, tasks = problem.class_names, problem.class_tasks
        prompts = [[name] for name in names]
        if options.attributes:
            assert isinstance(options.attributes, ClassTexts)
            check_class_texts(options.attributes, problem.tasks)
            given = options.attributes.of_classes(problem.tasks)
            prompts = [[_with_name(name, text) for text in texts] for name, texts in zip(names, given, strict=True)]
        counts = torch.tensor([len(each) for each in prompts])
        self._prompt_tasks = tasks.repeat_interleave(counts.to(tasks.device))  # (P,)
        self._encode_attributes = problem.text.prompts(
            [text for each in prompts for text in each],
            context_length=self.context_length,
            contexts=self._prompt_tasks.tolist(),
            position=options.position,
            runs=runs,
        )
        places = torch.arange(int(counts.sum())).split(counts.tolist())
        self._places = pad_sequence(list(places), batch_first=True, padding_value=-1).to(tasks.device)  # (K, A)
        self._shares = (self._places >= 0) / counts.to(tasks.device)[:, None]  # (K, A): of a class's mean

    def class_weights(self, learnables: Mapping[str, Tensor]) -> Tensor:
        """Class weights, means of unit-length ones: Tensor of shape (R, K, D), float32."""
        features = self._encode_attributes(learnables["context"])  # (R, P, D)
        units = self.correct(learnables, features, self._prompt_tasks)
        each = take(units, self._places.flatten().expand(len(units), -1))  # (R, K * A, D)
        return (each.unflatten(1, self._places.shape) * self._shares[..., None]).sum(dim=2)

    def picked_weights(self, learnables: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Class weights of some classes (R, Q), which alone are encoded where that is less: Tensor (R, Q, D)."""
        here = classes.clamp(min=0)  # (R, Q)
        places = self._places[here].masked_fill(classes[..., None] < 0, -1)  # (R, Q, A)
        if not self._encode_attributes.picking_saves(places[0].numel()):
            return take(self.class_weights(learnables), classes)
        features = self._encode_attributes.pick(learnables["context"], places.flatten(1))  # (R, Q * A, D)
        tasks = self.problem.class_tasks[here][..., None].expand(places.shape).flatten(1)  # (R, Q * A)
        units = self.correct(learnables, features, tasks).unflatten(1, places.shape[1:])  # (R, Q, A, D)
        return (units * self._shares[here][..., None]).sum(dim=2)

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy plus the text-to-text loss; shapes as in `PromptMethod.loss`."""
        texts = self.text_to_text(batch, self.name_weights(learnables, batch.classes))  # (R,)
        return cross_entropy(self.score(learnables, batch)) + self.options.strength * texts


@dataclass(frozen=True, kw_only=True)
class ArgueNTextOptions(ArgueTextOptions):
    """Options of `ArgueNText`."""

    negative_strength: float = option(3.0, "Factor on the certainty that backgrounds leave.", least=0)


class ArgueNText(ArgueText):
    """ArGue with negative prompts: those of backgrounds are to leave the class of an image open.

    Parameters
    ----------
    problem : Problem
    options : ArgueNTextOptions
    runs : int

    Notes
    -----
    loss = that of `ArgueText` + negative_strength * mean over images and classes of p log p, p the softmax over an
    image's classes of exp(logit_scale) x . normalise(text([SOS] S_t background of name_k . [EOS]) + c_t). Underscores
    of names stay in these prompts, as there. The original's list of biases is a hundred times "background"; here each
    class has one. Other deviations are those of `ArgueText`.
    """

    options: ArgueNTextOptions

    def __init__(self, problem: Problem, options: ArgueNTextOptions, runs: int = 1) -> None:
        super().__init__(problem, options, runs)
        self._encode_backgrounds = problem.text.prompts(
            [f"background of {name}" for name in problem.class_names],
            context_length=self.context_length,
            contexts=problem.class_tasks.tolist(),
            position=options.position,
            runs=runs,
            underscores=True,
        )

    def loss(self, learnables: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss of `ArgueText` plus how certain backgrounds are; shapes as in `PromptMethod.loss`."""
        backgrounds = self.unit_features(self._encode_backgrounds, learnables, batch.classes)  # (R, K or Q, D)
        certain = certainty(self.score_weights(batch, backgrounds))  # (R,)
        return super().loss(learnables, batch) + self.options.negative_strength * certain


def certainty(parts: Sequence[Scored]) -> Tensor:
    """Mean of p log p over images and the classes that each is scored over, p their softmax: Tensor of shape (R,)."""
    each = []
    for scores, _ in parts:
        logs, left_out = F.log_softmax(scores, dim=-1), scores.isneginf()  # (R, b, c)
        sums = (logs.exp() * logs.masked_fill(left_out, 0)).sum(dim=-1)
        each.append(sums / left_out.logical_not().sum(dim=-1))  # (R, b)
    return torch.cat(each, dim=-1).mean(dim=-1)


def _with_name(name: str, text: str) -> str:
    """Put the class's name before an attribute, unless it stands there."""
    words, said = (each.replace("_", " ") for each in (name, text))
    begins = f"{said} ".casefold().startswith(f"{words} ".casefold())
    return said if begins else f"{words} {said}"
