"""Every recording of the neighbours' released code, within the tolerances of golden/neighbours/README.md."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from golden_cases import EVERY_WAY, TAG
from neighbour_recordings import (
    NEIGHBOURS,
    assert_near,
    cases_of,
    check_prompt_case,
    neighbour,
    one_task_problem,
    said_of,
    start_from_recorded,
    tensors,
)

from cptlite.methods.batches import Batch
from cptlite.methods.probes.gda import GDA, gaussian_weights
from cptlite.methods.prompts.argue_text import ArgueNText, ArgueNTextOptions, ArgueText, ArgueTextOptions
from cptlite.methods.prompts.dapt_text import DaptText, DaptTextOptions
from cptlite.methods.prompts.lasp_text import LaspText, LaspTextOptions
from cptlite.methods.prompts.text_to_text import TextToText


def recorded_of(*names: str) -> list[str]:
    """Those that are there: another folder may lack some, but not all."""
    there = [name for name in names if (NEIGHBOURS / f"{TAG}_{name}.npz").exists()]
    assert there, f"{NEIGHBOURS} has none of {names}"
    return there


# gda: weights and biases, the chosen alpha, test scores


@pytest.mark.parametrize("case", recorded_of("gda", "gda_small"))
def test_gda_weights_are_the_recorded_ones(case: str) -> None:
    arrays = neighbour(case)
    views = F.normalize(torch.from_numpy(arrays["train_features"]), dim=-1)  # (V, N, D)
    labels = torch.from_numpy(arrays["train_labels"]).repeat(len(views))
    weights, bias = gaussian_weights(views.flatten(0, 1), labels, arrays["clip_weights"].shape[1])
    assert_near(weights.T, arrays["W"], 1e-3)
    assert_near(bias, arrays["b"], 1e-3)


@pytest.mark.parametrize("case", recorded_of("gda", "gda_small"))
def test_gda_chooses_and_scores_as_recorded(case: str) -> None:
    arrays = neighbour(case)
    probe = GDA(arrays["clip_weights"].T)
    rows = arrays["train_features"].transpose(1, 0, 2)  # (N, V, D)
    probe.fit(rows, arrays["train_labels"], arrays["val_features"], arrays["val_labels"])
    assert probe.choices_ == {"alpha": pytest.approx(float(arrays["best_alpha"]))}
    assert_near(probe.decision_function(arrays["test_features"]), arrays["test_logits"], 1e-3)
    accuracy = 100 * (probe.predict(arrays["test_features"]) == arrays["test_labels"]).mean()
    assert accuracy == pytest.approx(said_of(case)["test_acc"])


# dapt-text: CoOp's form, and the pairs' term


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("dapt"))
def test_dapt_text(case: str, way: str) -> None:
    facts = said_of("dapt")["cases"][case]
    options = DaptTextOptions(context_length=facts["L"], strength=facts["text_beta"])
    check_prompt_case("dapt", case, DaptText(one_task_problem("dapt", way), options))


def check_text_to_text(part: str, case: str, method: TextToText) -> None:
    """The text-to-text loss where the original started."""
    started = start_from_recorded(part, case, method)
    given = tensors(part)
    batch = Batch(images=given["image_features"][:1], labels=given["labels"][:1])
    loss = method.text_to_text(batch, TextToText.class_weights(method, started.stacked()))
    assert_near(loss.detach(), given[f"{case}/text_to_text_loss"], 1e-4)


# lasp-text: references, the text-to-text loss alone, and the whole


def lasp_case(case: str, way: str) -> LaspText:
    facts = said_of("lasp")["cases"][case]
    return LaspText(
        one_task_problem("lasp", way),
        LaspTextOptions(
            context_length=facts["L"],
            context_init=facts["init"],
            templates=facts["templates"],
            strength=facts["weight"],
            correction=facts["correction"],
        ),
    )


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("lasp"))
def test_lasp_text(case: str, way: str) -> None:
    method = lasp_case(case, way)
    assert_near(method.references, F.normalize(tensors("lasp")[f"{case}/references"], dim=-1), 1e-4)
    check_text_to_text("lasp", case, method)
    check_prompt_case("lasp", case, method)


# argue-text and argue-n-text: attributes, then the text-to-text loss, then backgrounds


def argue_case(case: str, way: str) -> ArgueText:
    whole = said_of("argue")
    facts, names = whole["cases"][case], whole["task"]["classes"]
    assert whole["negative_prompts"] == [[f"background of {name}"] for name in names]
    given = {
        "context_length": facts["L"],
        "context_init": facts["init"],
        "templates": whole["templates"],
        "attributes": json.dumps(dict(zip(names, whole["attributes"], strict=True))),
        "strength": facts["text_to_text_weight"],
        "correction": facts["correction"],
    }
    problem, negative = one_task_problem("argue", way), facts["negative_weight"]
    if negative:
        return ArgueNText(problem, ArgueNTextOptions(**given, negative_strength=negative))
    return ArgueText(problem, ArgueTextOptions(**given))


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("argue"))
def test_argue_text(case: str, way: str) -> None:
    method = argue_case(case, way)
    check_text_to_text("argue", case, method)
    check_prompt_case("argue", case, method)


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize(
    "case", [case for case in cases_of("argue") if said_of("argue")["cases"][case]["negative_weight"]]
)
def test_argues_backgrounds(case: str, way: str) -> None:
    """What they add to the loss of the first batch, where the original started."""
    method, given = argue_case(case, way), tensors("argue")
    assert isinstance(method, ArgueNText)
    started = start_from_recorded("argue", case, method)
    batch = Batch(images=given["image_features"][:1], labels=given["labels"][:1])
    more = method.loss(started.stacked(), batch) - ArgueText.loss(method, started.stacked(), batch)
    assert_near(more.detach() / method.options.negative_strength, given[f"{case}/negative_loss"], 1e-4)
