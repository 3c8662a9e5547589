"""Every recording of the neighbours' released code, within the tolerances of golden/neighbours/README.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import EVERY_WAY, TAG, make_task, text_encoder
from neighbour_recordings import NEIGHBOURS, assert_near, check_prompt_case, neighbour, one_task, said_of, tensors

from cptlite.config import resolve_config
from cptlite.methods.base import Problem
from cptlite.methods.probes.gda import GDA, gaussian_weights
from cptlite.methods.prompts.dept import DePT, DePTOptions
from cptlite.methods.prompts.mvlpt import MCoOp, MCoOpOptions
from cptlite.methods.prompts.nlprompt import couple, robust_loss
from cptlite.methods.prompts.tcp import TCP, TCPOptions
from cptlite.methods.templates import zero_shot_weights
from cptlite.training.state import new_optimizer


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


# mvlpt: logits of all classes, the context's gradient, losses over all tasks' classes


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", said_of("mvlpt")["cases"])
def test_mvlpt_mcoop_steps_as_recorded(case: str, way: str) -> None:
    facts = said_of("mvlpt")
    tasks = tuple(make_task(task["name"], task["classes"]) for task in facts["tasks"])
    said = facts["cases"][case]
    options = MCoOpOptions(context_length=said["L"], position=said["position"], zero_other_tasks=said["label_per_task"])
    problem = Problem(tasks=tasks, text=text_encoder(way))
    labels = tensors("mvlpt")["labels"]  # (3, B, 2): task, class within the task
    labels = torch.tensor(problem.offsets)[labels[..., 0]] + labels[..., 1]
    check_prompt_case(MCoOp(problem, options), "mvlpt", case, {"ctx": "context"}, labels, scored=True)


# dept: both heads' logits, gradients of all learnables, losses


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", said_of("dept")["cases"])
def test_dept_steps_as_recorded(case: str, way: str) -> None:
    said = said_of("dept")["cases"][case]
    ours = {
        "prompt_learner.ctx": "context",
        "linear_probe_proj.weight": "head.weight",
        "linear_probe_proj.bias": "head.bias",
    }
    ours |= {
        f"{theirs}.{part}": f"{film}.{part}"
        for theirs, film in {"film_lp_img": "image_film", "film_lp_text": "text_film"}.items()
        for part in ("scale", "bias")
    }
    method = DePT(one_task("dept", way), DePTOptions(context_length=said["L"], linear_share=said["linear_weight"]))
    started = check_prompt_case(method, "dept", case, ours, tensors("dept")["labels"])
    classifier, images = started.classifier(), tensors("dept")["image_features"][0]
    cosines = replace(classifier, linear_share=0.0).scores(images)
    assert_near(cosines, neighbour("dept")[f"{case}/final_similarity_logits"], 1e-3)
    linear = replace(classifier, linear_share=1.0).scores(images)
    assert_near(linear, neighbour("dept")[f"{case}/final_linear_logits"], 1e-3)


# tcp: zero-shot weights, logits, gradients of the context and the net, losses by both optimizers


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", said_of("tcp")["cases"])
def test_tcp_steps_as_recorded(case: str, way: str) -> None:
    said = said_of("tcp")["cases"][case]
    options = TCPOptions(context_length=4, block=said["layer"], strength=said["kg_weight"])
    problem = one_task("tcp", way, said["zero_shot_template"])
    assert_near(zero_shot_weights(problem), neighbour("tcp")[f"{case}/zero_shot"], 1e-4)
    ours = {"ctx": "context"}
    for layer, our in {"linear1": "hidden", "linear2": "prompt"}.items():
        ours |= {f"meta_net.{layer}.{part}": f"{our}.{part}" for part in ("weight", "bias")}
    how: dict[str, Any] = {}
    if said["optimiser"].get("adam"):
        recipe = resolve_config({"method": "tcp", "suite": "s", "datasets": ("a",), "backbone": "b"}).recipe
        assert recipe is not None and (recipe.lr, recipe.weight_decay) == (0.002, 5e-4)
        how["optimizer"] = lambda values: new_optimizer(recipe, dict(enumerate(values)), {})
        how["losses_within"] = 1e-3
    check_prompt_case(TCP(problem, options), "tcp", case, ours, tensors("tcp")["labels"], **how)


# nlprompt: couplings, which labels are believed, and the loss of those that are not

COUPLINGS = sorted({key.rpartition("/")[0] for key in neighbour("nlprompt") if key.endswith("/coupling")})


@pytest.mark.parametrize("case", COUPLINGS)
def test_nlprompt_couples_rows_as_recorded(case: str) -> None:
    arrays, eps = tensors("nlprompt"), float(case.removeprefix("reg").partition("_")[0])
    scores = arrays["logit_scale_exp"] * arrays["features"] @ arrays["text_features"].T
    assert_near(scores.softmax(dim=-1), neighbour("nlprompt")["probabilities"], 1e-4)
    every = torch.ones_like(arrays["noisy_labels"], dtype=torch.bool)
    coupling = couple(arrays["probabilities"], every, eps=eps, iterations=1000, threshold=1e-6)
    recorded = neighbour("nlprompt")
    assert_near(coupling, recorded[f"{case}/coupling"], 3e-6)
    assert coupling.argmax(dim=-1).tolist() == recorded[f"{case}/pseudo"].tolist()
    believed = coupling.argmax(dim=-1) == arrays["noisy_labels"]
    assert believed.tolist() == recorded[f"{case}/clean"].tolist()
    assert (
        int((believed & (arrays["noisy_labels"] == arrays["true_labels"])).sum())
        == said_of("nlprompt")[case]["clean_and_right"]
    )


def test_nlprompt_s_loss_of_labels_that_are_not_believed_is_the_recorded_one() -> None:
    arrays = tensors("nlprompt")
    logits = (arrays["logit_scale_exp"] * arrays["features"] @ arrays["text_features"].T).requires_grad_()
    labels = arrays["noisy_labels"]
    loss = robust_loss([(logits[None], labels[None])], torch.zeros_like(labels[None], dtype=torch.bool))
    assert_near(loss.detach(), neighbour("nlprompt")["mae/loss"], 1e-4)
    assert_near(torch.autograd.grad(loss.sum(), logits)[0], neighbour("nlprompt")["mae/grad_logits"], 1e-4)
