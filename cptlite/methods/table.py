"""The methods by name: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cptlite.errors import UsageError
from cptlite.methods.base import Method, Problem, PromptMethod, PromptOptions
from cptlite.methods.coop import CoOp
from cptlite.methods.linear_probe import LinearProbe
from cptlite.methods.prototype import Prototype
from cptlite.methods.softcpt import VARIANTS, SoftCPT
from cptlite.methods.zero_shot import ZeroShot

__all__ = ["METHODS", "MethodEntry", "find_method"]


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
    """

    learns: str
    prompts: Callable[[Problem, PromptOptions, str], PromptMethod] | None = None
    probe: Callable[[], Method] | None = None
    variants: tuple[str, ...] = ()
    multi_task: bool = False


def _coop(problem: Problem, options: PromptOptions, variant: str, *, sharing: str) -> CoOp:
    return CoOp(problem, options, sharing)


METHODS: dict[str, MethodEntry] = {
    "zeroshot": MethodEntry(learns="nothing: the dataset's template", probe=ZeroShot),
    "prototype": MethodEntry(learns="the mean feature of each class", probe=Prototype),
    "linear-probe": MethodEntry(learns="logistic regression on raw features", probe=LinearProbe),
    "coop-mt": MethodEntry(learns="one context for all tasks", prompts=partial(_coop, sharing="all"), multi_task=True),
    "coop-ca": MethodEntry(learns="one context per task", prompts=partial(_coop, sharing="task")),
    "coop-cs": MethodEntry(learns="one context per class", prompts=partial(_coop, sharing="class")),
    "softcpt": MethodEntry(
        learns="a meta network from task names to contexts",
        prompts=SoftCPT,
        variants=tuple(VARIANTS),
        multi_task=True,
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
