"""SoftCPT's options beyond the variants: a class-feature context that stays as it starts."""

from __future__ import annotations

import pytest
import torch
from golden_cases import make_task, text_encoder
from started import Started

from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Problem
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT, SoftCPTOptions
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState

RECIPE = Recipe(epochs=2, batch_size=5, lr=0.05)
DECAYING = Recipe(epochs=2, batch_size=5, lr=0.05, optimizer="adamw", weight_decay=0.5)


def make_method(variant: str, freeze: bool, sub_network: str = "lin", runs: int = 1) -> SoftCPT:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
    options = SoftCPTOptions(variant=variant, context_length=2, freeze_class_context=freeze, sub_network=sub_network)
    return SoftCPT(Problem(tasks=tasks, text=text_encoder("fused")), options, runs)


def rows() -> FewShotRows:
    features = torch.randn(15, 1, 32, generator=torch.Generator().manual_seed(1))
    return FewShotRows(features=features, labels=torch.arange(15) % 5)


def values(started: Started) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in started.learnables.items()}


@pytest.mark.parametrize("recipe", [RECIPE, DECAYING], ids=["sgd", "adamw"])
@pytest.mark.parametrize("sub_network", ["lin", "linmean", "lincls"])
@pytest.mark.parametrize("variant", ["cata", "cats", "csta", "csts"])
def test_a_frozen_context_stays_and_the_rest_learns(variant: str, sub_network: str, recipe: Recipe) -> None:
    """With lincls the task context takes no part: no weight decay moves it either."""
    frozen, free = (Started(make_method(variant, freeze, sub_network)) for freeze in (True, False))
    start = values(frozen)
    assert all(torch.equal(value, start[name]) for name, value in values(free).items())
    for started in (frozen, free):
        _, gradients = started.gradients(rows().features[:, 0], rows().labels)
        started.train(rows(), recipe)
        moved = {name for name, value in values(started).items() if not torch.equal(value, start[name])}
        still = {"class_context"} if started is frozen else set()
        still |= {"task_context"} if sub_network == "lincls" else set()
        assert moved == gradients.keys() == start.keys() - still
    assert free.num_parameters() - frozen.num_parameters() == start["class_context"].numel()


def test_a_frozen_context_of_several_runs() -> None:
    method = make_method("csts", True, runs=2)
    together = [Started(method, seed) for seed in (1, 2)]
    train(method, [TrainingState(each.learnables, rows(), RECIPE, seed=3, task_sizes=(2, 3)) for each in together])
    for seed, each in zip((1, 2), together, strict=True):
        alone = Started(make_method("csts", True), seed)
        start = values(alone)
        alone.train(rows(), RECIPE, seed=3)
        assert torch.equal(each.learnables["class_context"], start["class_context"])
        torch.testing.assert_close(each.learnables["projection"], alone.learnables["projection"], rtol=1e-4, atol=1e-5)
        assert not torch.equal(alone.learnables["projection"], start["projection"])


@pytest.mark.parametrize(
    "variant", [name for name, (has_class_features, *_) in VARIANTS.items() if not has_class_features]
)
def test_without_class_features_there_is_nothing_to_freeze(variant: str) -> None:
    with pytest.raises(UsageError, match=f"softcpt-{variant} has no class-feature context to freeze: drop"):
        SoftCPTOptions(variant=variant, freeze_class_context=True)


def test_the_variants_are_those_that_the_option_takes() -> None:
    """The option has them as literals, to be read from source."""
    for variant in VARIANTS:
        assert SoftCPTOptions(variant=variant).variant == variant
    with pytest.raises(UsageError, match=f"unknown variant 'xxxx': give one of {', '.join(VARIANTS)}"):
        SoftCPTOptions(variant="xxxx")
