"""SoftCPT's options beyond the variants: a class-feature context that stays as it starts."""

from __future__ import annotations

import pytest
import torch
from golden_cases import make_task, text_encoder

from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptOptions
from cptlite.methods.prompts.softcpt import VARIANTS, SoftCPT
from cptlite.training.loop import Recipe, TrainingRun, take_learnables, train_prompts, train_together

RECIPE = Recipe(epochs=2, batch_size=5, lr=0.05)


def make_method(variant: str, freeze: bool, sub_network: str = "lin") -> SoftCPT:
    torch.manual_seed(0)
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"]))
    options = PromptOptions(context_length=2, freeze_class_context=freeze, sub_network=sub_network)
    return SoftCPT(Problem(tasks=tasks, text=text_encoder("fused")), options, variant)


def rows() -> FewShotRows:
    features = torch.randn(15, 1, 32, generator=torch.Generator().manual_seed(1))
    return FewShotRows(features=features, labels=torch.arange(15) % 5)


def values(method: SoftCPT) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in method.named_parameters()}


@pytest.mark.parametrize("sub_network", ["lin", "linmean", "lincls"])
@pytest.mark.parametrize("variant", ["cata", "cats", "csta", "csts"])
def test_a_frozen_context_stays_and_the_rest_learns(variant: str, sub_network: str) -> None:
    frozen = make_method(variant, True, sub_network)
    start = values(frozen)
    train_prompts(frozen, rows(), RECIPE, seed=1)
    moved = {name for name, value in values(frozen).items() if not torch.equal(value, start[name])}
    assert "class_context" not in moved
    assert "projection" in moved
    assert ("task_context" in moved) == (sub_network != "lincls")
    free = make_method(variant, False, sub_network)
    assert free.num_parameters() - frozen.num_parameters() == free.class_context.numel()
    train_prompts(free, rows(), RECIPE, seed=1)
    assert not torch.equal(values(free)["class_context"], start["class_context"])


def test_a_frozen_context_of_several_runs() -> None:
    method = make_method("csts", True)
    runs = [TrainingRun(learnables=take_learnables(make_method("csts", True)), rows=rows(), seed=s) for s in (1, 2)]
    train_together(method, runs, RECIPE)
    for run in runs:
        alone = make_method("csts", True)
        train_prompts(alone, rows(), RECIPE, seed=run.seed)
        assert torch.equal(run.learnables["class_context"], alone.class_context)
        torch.testing.assert_close(run.learnables["projection"], alone.projection, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "variant", [name for name, (has_class_features, *_) in VARIANTS.items() if not has_class_features]
)
def test_without_class_features_there_is_nothing_to_freeze(variant: str) -> None:
    with pytest.raises(UsageError, match=f"softcpt-{variant} has no class-feature context to freeze: drop"):
        make_method(variant, True)
