"""The methods by name: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cptlite.config import PAPER, RECIPES, TrainConfig
from cptlite.errors import UsageError
from cptlite.methods.base import Method, Problem, PromptMethod, PromptOptions
from cptlite.methods.probes.cross_modal import CrossModal
from cptlite.methods.probes.estimator import FeatureClassifier
from cptlite.methods.probes.linear_probe import LinearProbe
from cptlite.methods.probes.lp_plus_plus import LPPlusPlus
from cptlite.methods.probes.per_task import PerTask
from cptlite.methods.probes.prototype import PrototypeClassifier
from cptlite.methods.probes.tip_adapter import TipAdapter, TipAdapterF
from cptlite.methods.probes.zero_shot import ZeroShot
from cptlite.methods.prompts.cocoop import CoCoOp
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.kgcoop import KgCoOp
from cptlite.methods.prompts.plot import Plot
from cptlite.methods.prompts.prograd import ProGrad
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT
from cptlite.methods.prompts.task_res import TaskRes

__all__ = ["METHODS", "MethodEntry", "find_method", "resolve_config"]


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One row of the method table.

    Attributes
    ----------
    learns : str
        What is learned, for `cptlite methods`.
    prompts : callable, optional
        Makes a method that learns prompts by gradient steps from (problem, options, variant).
    probe : callable, optional
        Makes a method that is fitted at once.
    variants : tuple of str
        The first is the default; empty for methods without any.
    multi_task : bool
        Whether the tasks share what is learned.
    defaults : mapping
        Fields of `TrainConfig` whose default differs for this method.
    needs_rows : bool
        Whether it looks at training rows at all.
    needs_local : bool
        Whether images are their local features, (M, D) each, instead of pooled ones.
    cached : str
        What it reads of the training images' cached features.
    parameters : str
        How many numbers the first variant learns: products of axes, added up. T tasks, K classes of all tasks, N
        training rows, L context tokens of a class prompt, M of a task prompt, P prompts of a class, W text width, D
        joint dimension, H hidden units.
    source : str
        Paper it comes from.
    """

    learns: str
    prompts: Callable[[Problem, PromptOptions, str], PromptMethod] | None = None
    probe: Callable[[], Method] | None = None
    variants: tuple[str, ...] = ()
    multi_task: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_rows: bool = True
    needs_local: bool = False
    cached: str = ""
    parameters: str = ""
    source: str = ""


def _coop(problem: Problem, options: PromptOptions, variant: str, *, sharing: str) -> CoOp:
    return CoOp(problem, options, sharing)


def _per_task(name: str, estimator: Callable[[], FeatureClassifier]) -> Callable[[], Method]:
    return partial(PerTask, name, estimator)


A_PHOTO_OF_A = {"context_length": 4, "context_init": "a photo of a"}
SEPARATE = {"separate": True}

METHODS: dict[str, MethodEntry] = {
    "zeroshot": MethodEntry(
        learns="nothing: the dataset's template or your own (--template)",
        probe=ZeroShot,
        needs_rows=False,
        cached="nothing",
        parameters="0",
        source="Radford et al., ICML 2021",
    ),
    "prototype": MethodEntry(
        learns="the mean feature of each class",
        probe=_per_task("prototype", PrototypeClassifier),
        cached="all views",
        parameters="K D",
        source="Snell et al., NeurIPS 2017",
    ),
    "linear-probe": MethodEntry(
        learns="logistic regression on raw features",
        probe=_per_task("linear-probe", LinearProbe),
        cached="view 0",
        parameters="K D + K",
        source="Radford et al., ICML 2021",
    ),
    "tip-adapter": MethodEntry(
        learns="nothing: training rows vote beside the template",
        probe=_per_task("tip-adapter", TipAdapter),
        cached="all views",
        parameters="0",
        source="Zhang et al., ECCV 2022",
    ),
    "tip-adapter-f": MethodEntry(
        learns="the voting rows' features",
        probe=_per_task("tip-adapter-f", TipAdapterF),
        cached="all views",
        parameters="N D",
        source="Zhang et al., ECCV 2022",
    ),
    "cross-modal": MethodEntry(
        learns="a linear head on images and class texts",
        probe=_per_task("cross-modal", CrossModal),
        cached="all views",
        parameters="K D",
        source="Lin et al., CVPR 2023",
    ),
    "lp++": MethodEntry(
        learns="a linear head blended with the template class by class",
        probe=_per_task("lp++", LPPlusPlus),
        cached="all views",
        parameters="K D + 2 K",
        source="Huang et al., CVPR 2024",
    ),
    "taskres": MethodEntry(
        learns="what is added to the template's class weights",
        prompts=TaskRes,
        defaults=SEPARATE | {"optimizer": "adamw", "lr": 0.002, "batch_size": 256, "epochs": 100},
        cached="random views",
        parameters="K D",
        source="Yu et al., CVPR 2023",
    ),
    "coop-mt": MethodEntry(
        learns="one context for all tasks",
        prompts=partial(_coop, sharing="all"),
        multi_task=True,
        cached="random views",
        parameters="L W",
        source="Zhou et al., IJCV 2022",
    ),
    "coop-ca": MethodEntry(
        learns="one context per task",
        prompts=partial(_coop, sharing="task"),
        cached="random views",
        parameters="T L W",
        source="Zhou et al., IJCV 2022",
    ),
    "coop-cs": MethodEntry(
        learns="one context per class",
        prompts=partial(_coop, sharing="class"),
        cached="random views",
        parameters="K L W",
        source="Zhou et al., IJCV 2022",
    ),
    "cocoop": MethodEntry(
        learns="one context per task, and a net that shifts it by the image",
        prompts=CoCoOp,
        defaults=A_PHOTO_OF_A | SEPARATE | {"epochs": 10, "batch_size": 1},
        cached="random views",
        parameters="T L W + T D H + T H + T H W + T W",
        source="Zhou et al., CVPR 2022",
    ),
    "kgcoop": MethodEntry(
        learns="one context per task, pulled towards the template",
        prompts=KgCoOp,
        defaults=A_PHOTO_OF_A | SEPARATE,
        cached="random views",
        parameters="T L W",
        source="Yao et al., CVPR 2023",
    ),
    "prograd": MethodEntry(
        learns="one context per task, never against the template",
        prompts=ProGrad,
        defaults=SEPARATE,
        cached="random views",
        parameters="T L W",
        source="Zhu et al., ICCV 2023",
    ),
    "plot": MethodEntry(
        learns="four contexts per task, matched to local image features",
        prompts=Plot,
        defaults=SEPARATE,
        needs_local=True,
        cached="local features (cptlite cache --local)",
        parameters="T P L W",
        source="Chen et al., ICLR 2023",
    ),
    "softcpt": MethodEntry(
        learns="a meta network from task names to contexts",
        prompts=SoftCPT,
        variants=tuple(VARIANTS),
        multi_task=True,
        cached="random views",
        parameters="M W + D L W",
        source="Ding et al., Neurocomputing 2024",
    ),
}


def find_method(name: str, variant: str = "") -> tuple[MethodEntry, str]:
    """Look a method up.

    Parameters
    ----------
    name : str
    variant : str
        Empty takes the method's default.

    Returns
    -------
    MethodEntry
    str
        The variant, resolved; empty for methods without any.

    Raises
    ------
    UsageError
        Unknown name or variant.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: give one of {', '.join(METHODS)}")
    entry = METHODS[name]
    if not entry.variants:
        if variant:
            raise UsageError(f"method {name} has no variants, got {variant!r}: leave --variant out")
        return entry, ""
    variant = variant or entry.variants[0]
    if variant not in entry.variants:
        raise UsageError(f"unknown variant {variant!r} of {name}: give one of {', '.join(entry.variants)}")
    return entry, variant


def resolve_config(given: Mapping[str, Any]) -> TrainConfig:
    """Complete what the user gave: by the recipe, then the method's own defaults, then those of `TrainConfig`.

    Parameters
    ----------
    given : mapping
        Fields of `TrainConfig`, ``method`` among them.

    Raises
    ------
    UsageError
        Unknown method, variant or field, or a value out of range.
    """
    entry, variant = find_method(given["method"], given.get("variant", ""))
    recipe = given.get("recipe", PAPER)
    if entry.prompts is None and recipe in RECIPES:
        recipe = PAPER  # nothing is stepped, so that there is but one way
    completed = {**entry.defaults, **RECIPES.get(recipe, {}), **given}
    return TrainConfig.from_json({**completed, "variant": variant, "recipe": recipe})
