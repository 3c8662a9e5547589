"""CoCoOp: a learned context that every image shifts.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models" (CVPR 2022).

Axes: R runs trained together, K classes of the task, B images, L context tokens, H hidden units, W text width,
D joint dimension; "..." is the axis of runs, where there is one.
"""

from __future__ import annotations

from torch import Tensor, nn

from cptlite.classifiers import ImageConditionedClassifier
from cptlite.errors import UsageError
from cptlite.methods.base import Problem, PromptMethod, PromptOptions, new_context

__all__ = ["CoCoOp"]

REDUCTION = 16  # of D, to the hidden units


class CoCoOp(PromptMethod):
    """One context, shifted for each image by a two-layer net of its feature.

    Parameters
    ----------
    problem : Problem
        Of one task.
    options : PromptOptions
        Uses ``context_length``, ``context_init`` and ``position``; the paper starts from "a photo of a" (L 4).
    variant : str
        Unused.

    Raises
    ------
    UsageError
        The problem has several tasks.

    Notes
    -----
    x = normalise(image), S(x)_l = S_l + A_2 relu(A_1 x + a_1) + a_2 for every l, with H = D / 16 hidden units;
    w_k(x) = normalise(text([SOS] S(x) class_k . [EOS])), logit_k = exp(logit_scale) x . w_k(x). The net starts as
    PyTorch's linear layers do. L W + H (D + 1) + W (H + 1) numbers are learned.

    The original encodes the K prompts of one image after another, so its batches have one image. Here images are to the
    text encoder what runs are: each has one context, which its K prompts share, and all go through one forward.
    """

    def __init__(self, problem: Problem, options: PromptOptions, variant: str = "") -> None:
        super().__init__(problem)
        if len(problem.tasks) > 1:
            raise UsageError(
                f"cocoop learns one task at a time, got {len(problem.tasks)} to learn jointly: "
                f"give --separate, its default, or one --dataset"
            )
        text = problem.text
        dim, width = text.tower.projection.shape[1], text.tower.width
        self.context = new_context((1, options.context_length, width), options.context_init, text)
        # Modules for their start and names alone: weights may have an axis of runs, which nn.Linear does not take.
        self.hidden = nn.Linear(dim, max(1, dim // REDUCTION)).to(text.tower.device)
        self.shift = nn.Linear(self.hidden.out_features, width).to(text.tower.device)
        self._position = options.position
        self._encode = text.prompts(
            problem.class_names, context_length=self.context.shape[1], position=options.position
        )

    def image_weights(self, images: Tensor) -> Tensor:
        """Unit-length class weights as each raw image has them, (..., B, D) to (..., B, K, D), float32."""
        return self._classifier(dict(self.named_parameters())).weights(images)

    def classifier_logits(self, images: Tensor) -> Tensor:
        """Scaled cosines of raw images with their own class weights, (..., B, D) to (..., B, K)."""
        return self._classifier(dict(self.named_parameters())).logits(images)

    def classifier(self) -> ImageConditionedClassifier:
        """Return the classifier as it stands."""
        return self._classifier({name: value.detach().clone() for name, value in self.named_parameters()})

    def _classifier(self, learnables: dict[str, Tensor]) -> ImageConditionedClassifier:
        return ImageConditionedClassifier(
            **{name.replace(".", "_"): value for name, value in learnables.items()},
            encode=self._encode,
            logit_scale=self.logit_scale,
            position=self._position,
            num_classes=len(self.problem.class_names),
        )
