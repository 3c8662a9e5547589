"""Every recording of the neighbours' released code, within the tolerances of golden/neighbours/README.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import EVERY_WAY, TAG, make_task, text_encoder
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
from torch import Tensor

from cptlite.classifiers import class_logs, divergence_votes, divergences, votes
from cptlite.config import resolve_config
from cptlite.methods.base import Problem
from cptlite.methods.batches import Batch
from cptlite.methods.class_texts import ClassTexts
from cptlite.methods.probes import ape, ape_channels
from cptlite.methods.probes.ape import APE
from cptlite.methods.probes.ape_channels import channel_criterion, class_means, key_divergences, select_channels
from cptlite.methods.probes.ape_t import Refinement
from cptlite.methods.probes.clap import NONE, Prototypes, multipliers, take_step
from cptlite.methods.probes.gda import GDA, gaussian_weights
from cptlite.methods.probes.projection import train_maps
from cptlite.methods.probes.prolip import ProLIP
from cptlite.methods.probes.proto_clip import ProtoCLIP
from cptlite.methods.probes.rla import RLA
from cptlite.methods.probes.tes_heads import Heads, _optimizer, step_heads
from cptlite.methods.probes.tip_x import TEMPERATURE, TipX, rescaling
from cptlite.methods.probes.transclip import GAMMAS, Labelled, Links, nearest, refine, transduce
from cptlite.methods.prompts.argue_text import ArgueNText, ArgueNTextOptions, ArgueText, ArgueTextOptions
from cptlite.methods.prompts.dapt_text import DaptText, DaptTextOptions
from cptlite.methods.prompts.dept import DePT, DePTOptions
from cptlite.methods.prompts.lasp_text import LaspText, LaspTextOptions
from cptlite.methods.prompts.mvlpt import MCoOp, MCoOpOptions
from cptlite.methods.prompts.nlprompt import couple, robust_loss
from cptlite.methods.prompts.tcp import TCP, TCPOptions
from cptlite.methods.prompts.text_to_text import TextToText
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


# tip-x: distributions, divergences, what is chosen; the scores with the original's ranges, which are those of all rows


@pytest.mark.parametrize("case", recorded_of("tipx"))
def test_tip_x_distributions_and_divergences_are_the_recorded_ones(case: str) -> None:
    rows = tensors(case)
    text = rows["clip_weights"].T
    key_logs = class_logs(rows["train_features"], text, TEMPERATURE)
    assert_near(key_logs.softmax(dim=-1), rows["train_distribution"], 1e-3)
    for split in ("val", "test"):
        logs = class_logs(rows[f"{split}_features"], text, TEMPERATURE)
        assert_near(divergences(logs, key_logs), rows[f"{split}_kl"], 1e-3)


@pytest.mark.parametrize("case", recorded_of("tipx"))
def test_tip_x_chooses_as_recorded_and_scores_so_with_the_originals_range(case: str) -> None:
    rows, said = tensors(case), said_of(case)
    text, keys, labels = rows["clip_weights"].T, rows["train_features"], rows["train_labels"]
    probe = TipX(text)
    probe.fit(keys.numpy(), labels.numpy(), rows["val_features"].numpy(), rows["val_labels"].numpy())
    chosen = {name: said[f"best_{name}"] for name in ("alpha", "beta", "gamma")}
    assert probe.choices_ == pytest.approx(chosen)

    logs, key_logs = (class_logs(each, text, TEMPERATURE) for each in (rows["test_features"], keys))
    # All test rows' divergences, and the validation rows' cosines.
    slope, offset = rescaling(divergences(logs, key_logs), rows["val_features"] @ keys.T)
    apart = divergence_votes(logs, key_logs, labels, slope, offset)
    assert_near(apart, rows["test_kl_logits"], 1e-3)
    near = votes(rows["test_features"] @ keys.T, labels, chosen["beta"], len(text))
    assert_near(near, rows["test_cache_logits"], 1e-3)
    scores = 100 * rows["test_features"] @ text.T + chosen["alpha"] * near + chosen["gamma"] * apart
    assert_near(scores, rows["test_logits"], 1e-3)
    own = replace(probe.classifier_, slope=slope, offset=offset).scores(rows["test_features"])
    assert_near(own, rows["test_logits"], 1e-3)


# ape: similarity of channels, their choice, divergences of keys, what is chosen, test scores


def ape_probe(case: str) -> tuple[dict[str, Tensor], dict[str, Any], APE]:
    rows, said = tensors(case), said_of(case)
    wanted, (similarity, variance) = said["config"]["training_free_feat_num"], said["config"]["w_training_free"]
    assert similarity + variance == 1
    return rows, said, APE(rows["clip_weights"].T, keep=wanted / said["D"], similarity_weight=similarity)


@pytest.mark.parametrize("case", recorded_of("ape"))
def test_ape_selects_the_recorded_channels(case: str) -> None:
    rows, _, probe = ape_probe(case)
    text, y = rows["clip_weights"].T, rows["train_labels"]
    means = class_means(text, rows["train_features"], y)
    assert_near(-channel_criterion(means, text, 1.0), rows["ape/similarity"], 1e-4)
    probe.fit(rows["train_features"].numpy(), y.numpy())
    found = probe.classifier_
    assert torch.equal(found.channels, rows["ape/indices"])
    own = F.normalize(text[:, found.channels], dim=-1)
    assert_near(key_divergences(found.keys, own, y), rows["ape/cache_div"], 1e-4)


@pytest.mark.parametrize("case", recorded_of("ape"))
def test_ape_chooses_and_scores_as_recorded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, said, probe = ape_probe(case)
    names, scales, counts = ("BETAS", "ALPHAS", "GAMMAS"), said["config"]["search_scale"], said["config"]["search_step"]
    for name, scale, steps in zip(names, scales, counts, strict=True):
        least = 0.0 if name == "GAMMAS" else 0.1
        home = ape if name == "GAMMAS" else ape_channels
        monkeypatch.setattr(home, name, [least + step * (scale - least) / steps for step in range(steps)])
    probe.fit(*(rows[f"{split}_{what}"].numpy() for split in ("train", "val") for what in ("features", "labels")))
    assert probe.choices_ == pytest.approx({name: said["ape"][f"best_{name}"] for name in ("alpha", "beta", "gamma")})
    assert_near(probe.decision_function(rows["test_features"].numpy()), rows["ape/test_logits"], 1e-4)


# ape-t: channels, first step, residual and weights of the votes after ten, test scores


@pytest.mark.parametrize("case", recorded_of("ape"))
def test_ape_t_trains_as_recorded(case: str) -> None:
    rows, said = tensors(case), said_of(case)
    text, y, kept = rows["clip_weights"].T, rows["train_labels"], said["ape-t"]["features_kept"]
    channels = select_channels(channel_criterion(text, text, said["ape-t"]["w"][0]), kept)
    assert torch.equal(channels, rows["ape-t/indices"])

    refined = Refinement.begin(text=text, keys=rows["train_features"], y=y, channels=channels, scale=100.0)
    alpha, beta = float(said["config"]["init_alpha"]), float(said["config"]["init_beta"])
    batches = [(rows["train_images"][picked], picked) for picked in rows["batches"]]
    learned = [refined.residual.requires_grad_(), refined.key_weights.requires_grad_()]
    first = refined.logits(batches[0][0], alpha, beta)
    assert_near(first.detach(), rows["ape-t/logits_step0"], 1e-4)
    gradients = torch.autograd.grad(F.cross_entropy(first, y[batches[0][1]]), learned)
    assert_near(gradients[0], rows["ape-t/grad_res"], 1e-4)
    assert_near(gradients[1], rows["ape-t/grad_value_weights"], 1e-4)

    losses = refined.train(batches, len(batches), alpha=alpha, beta=beta, lr=0.01)
    assert_near(np.array(losses), rows["ape-t/losses"], 1e-4)
    assert_near(refined.residual, rows["ape-t/res_after"], 1e-4)
    assert_near(refined.key_weights, rows["ape-t/value_weights_after"], 1e-4)
    assert_near(refined.logits(rows["test_features"], alpha, beta), rows["ape-t/test_logits_after"], 1e-3)


# transclip: zero-shot, and few-shot with each gamma alone


@pytest.mark.parametrize("case", recorded_of("transclip"))
def test_transclip_from_zero_shot_scores_is_the_recorded_one(case: str) -> None:
    rows = tensors(case)
    x, none = rows["query_features"], Labelled(x=rows["support_features"][:0], y=rows["support_labels"][:0])
    log_z, facts = transduce(x, 100 * x @ rows["clip_weights"], none, none)
    assert facts["lambda"] == said_of(case)["lambda_zs"]
    assert_near(log_z.exp(), rows["zs/z"], 2e-3)


@pytest.mark.parametrize("case", recorded_of("transclip"))
def test_transclip_with_labelled_rows_is_the_recorded_one_of_each_gamma(case: str) -> None:
    """With neighbours as the original has them: labelled rows first, their nearest left out; z in the other order."""
    rows, said = tensors(case), said_of(case)
    x, labelled = rows["query_features"], Labelled(x=rows["support_features"], y=rows["support_labels"])
    parts = [nearest(each, x, said["neighbours"], skip=1) for each in (labelled.x, x)]
    links = Links(*(torch.cat(pair) for pair in zip(*parts, strict=True)))
    log_prior = (100 * x @ rows["clip_weights"]).log_softmax(dim=-1)
    assert list(GAMMAS) == said["gammas"]
    for gamma, recorded in zip(GAMMAS, rows["fs/z_by_gamma"], strict=True):
        log_z = refine(x, log_prior, links, trust=said["lambda_fs"], labelled=labelled, gamma=gamma)
        assert_near(log_z.exp(), recorded, 2e-3)


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
        "attributes": ClassTexts("attributes", dict(zip(names, whole["attributes"], strict=True))),
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


# mvlpt: logits of all classes, the context's gradient, losses over all tasks' classes


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("mvlpt"))
def test_mvlpt_mcoop_steps_as_recorded(case: str, way: str) -> None:
    facts = said_of("mvlpt")
    tasks = tuple(make_task(task["name"], task["classes"]) for task in facts["tasks"])
    said = facts["cases"][case]
    options = MCoOpOptions(context_length=said["L"], position=said["position"], zero_other_tasks=said["label_per_task"])
    problem = Problem(tasks=tasks, text=text_encoder(way, fill=False))
    labels = tensors("mvlpt")["labels"]  # (3, B, 2): task, class within the task
    labels = torch.tensor(problem.offsets)[labels[..., 0]] + labels[..., 1]
    check_prompt_case("mvlpt", case, MCoOp(problem, options), labels=labels, scored=True)


# dept: both heads' logits, gradients of all learnables, losses


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("dept"))
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
    method = DePT(
        one_task_problem("dept", way), DePTOptions(context_length=said["L"], linear_share=said["linear_weight"])
    )
    started = check_prompt_case("dept", case, method, ours=ours)
    classifier, images = started.classifier(), tensors("dept")["image_features"][0]
    cosines = replace(classifier, linear_share=0.0).scores(images)
    assert_near(cosines, neighbour("dept")[f"{case}/final_similarity_logits"], 1e-3)
    linear = replace(classifier, linear_share=1.0).scores(images)
    assert_near(linear, neighbour("dept")[f"{case}/final_linear_logits"], 1e-3)


# tcp: zero-shot weights, logits, gradients of the context and the net, losses by both optimizers


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", cases_of("tcp"))
def test_tcp_steps_as_recorded(case: str, way: str) -> None:
    said = said_of("tcp")["cases"][case]
    options = TCPOptions(context_length=4, block=said["layer"], strength=said["kg_weight"])
    problem = one_task_problem("tcp", way, said["zero_shot_template"])
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
    check_prompt_case("tcp", case, TCP(problem, options), ours=ours, **how)


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


# clap and zs-lp: multipliers, gradients, losses, prototypes and scores of ten recorded batches


CONSTRAINTS = {"zs-lp": NONE, "clap": "l2"}


@pytest.mark.parametrize("case", [name for part in recorded_of("clap") for name in said_of(part)["cases"]])
def test_clap_steps_as_recorded(case: str) -> None:
    all_of = tensors("clap")
    constraint = CONSTRAINTS.get(case, case.removeprefix("clap-"))
    recorded = {name.removeprefix(f"{case}/"): value for name, value in all_of.items() if name.startswith(f"{case}/")}
    x, y = F.normalize(all_of["train_features"], dim=-1), all_of["train_labels"]
    text, scale = all_of["base_text_features"], float(all_of["logit_scale"].exp())
    found = Prototypes.begin(text, multipliers(x, y, text, scale, constraint), constraint)
    queries = scale * F.normalize(all_of["test_features"], dim=-1)
    assert_near(queries @ F.normalize(found.values, dim=-1).T, recorded["logits_test_before"], 1e-4)
    if constraint != NONE:
        assert_near(found.multipliers, recorded["alpha"], 1e-4)
    steps = []
    for step, picked in enumerate(all_of["batches"]):
        steps.append(take_step(found, x[picked], y[picked], scale, 0.1))
        if constraint == "adaptative" and step in (4, 9):
            found.outer_step()
            assert_near(found.multipliers, recorded[f"alpha_after_step{step}"], 1e-4)
    losses, penalties, gradients = (torch.stack(values) for values in zip(*steps, strict=True))
    assert_near(losses, recorded["losses"], 1e-4)
    if constraint != NONE:
        assert_near(penalties, recorded["penalties"], 1e-4)
    for step in (0, 5):
        assert_near(gradients[step], recorded[f"grad_step{step}"], 1e-4)
    assert_near(found.values, recorded["prototypes_after"], 1e-4)
    assert_near(queries @ F.normalize(found.values, dim=-1).T, recorded["logits_test_after"], 1e-4)


# proto-clip: image prototypes and mixed probabilities


@pytest.mark.parametrize("case", recorded_of("protoclip"))
def test_proto_clip_has_the_recorded_probabilities(case: str) -> None:
    arrays = neighbour(case)
    mixtures = {name: recorded for name, recorded in arrays.items() if name.startswith("p/")}
    assert mixtures
    for name, recorded in mixtures.items():
        alpha, beta = (float(word.lstrip("abehlpt")) for word in name.removeprefix("p/").split("_"))
        probe = ProtoCLIP(arrays["text_weights"], alpha=alpha, beta=beta)
        probe.fit(arrays["train_features"], arrays["train_labels"])
        assert_near(probe.classifier_.tensors()["prototypes"], arrays["image_prototypes"], 1e-4)
        assert_near(probe.predict_proba(arrays["query_features"]), recorded, 1e-4)


# rla and prolip: the trained matrix, the loss before the last step, test scores; both see the same arithmetic


@pytest.mark.parametrize("case", recorded_of("prolip"))
def test_rla_learns_the_recorded_matrix(case: str) -> None:
    rows, said = tensors(case), said_of(case)
    lr, start = said["cases"]["rla"]["lr"], torch.eye(rows["visual_proj"].shape[1])
    features = rows["train_pre_features"] @ rows["visual_proj"]  # (V, N, D)
    how = {"scale": 100.0, "pull": 1 / said["shots"], "rates": (lr,), "epochs": said["epochs"]}
    views, text = features.transpose(0, 1), rows["clip_weights"].T
    maps, losses = train_maps(views, rows["train_labels"], start, text, **how)
    assert_near(maps[0].T, rows["rla/after/linear2.weight"], 1e-3)
    assert_near(losses[0], rows["rla/last_loss"], 1e-3)
    probe = RLA(text.numpy(), rate=lr, epochs=said["epochs"]).fit(views.numpy(), rows["train_labels"].numpy())
    test = rows["test_pre_features"] @ rows["visual_proj"]
    assert_near(probe.decision_function(test.numpy()), rows["rla/test_logits"], 1e-3)


@pytest.mark.parametrize("case", recorded_of("prolip"))
def test_prolip_s_projection_is_the_recorded_one(case: str) -> None:
    rows, said = tensors(case), said_of(case)
    views, start, text = rows["train_pre_features"].transpose(0, 1), rows["visual_proj"], rows["clip_weights"].T
    how = {"scale": 100.0, "pull": 1 / said["shots"], "epochs": said["epochs"]}
    rates = (said["cases"]["prolip"]["lr"],)
    maps, losses = train_maps(views, rows["train_labels"], start, text, rates=rates, **how)
    assert_near(maps[0], rows["prolip/after/vit_proj"], 1e-3)
    assert_near(losses[0], rows["prolip/last_loss"], 1e-3)
    probe = ProLIP(text.numpy(), projection=start.numpy(), rate=rates[0], epochs=said["epochs"])
    probe.fit(views.numpy(), rows["train_labels"].numpy())
    assert_near(probe.decision_function(rows["test_pre_features"].numpy()), rows["prolip/test_logits"], 1e-3)


# tes-heads: scores, projections, gradients, losses of ten steps, scores after them


@pytest.mark.parametrize("case", recorded_of("tes"))
def test_tes_heads_step_as_recorded(case: str) -> None:
    rows, said, start = tensors(case), said_of(case), tensors(case, "init/")
    x, y, text = rows["features"], rows["labels"], F.normalize(rows["text_features"], dim=-1)
    assert said["tau"] == 0.03 and said["optimiser"] == "SGD lr 0.00316 momentum 0.9 nesterov wd 1e-5"
    heads = Heads(x.shape[-1], text.shape[1], len(text))
    heads.load_state_dict(start, strict=False)  # a recording has no running statistics
    assert start.keys() == dict(heads.named_parameters()).keys()
    scores, projected = heads(x[0])
    assert_near(scores.detach(), rows["logits"], 1e-3)
    assert_near(projected.detach(), rows["projected"], 1e-3)
    optimizer, losses = _optimizer(heads, 0.00316), []
    for step in range(len(rows["losses"])):
        batch = x[step % len(x)], y[step % len(x)]
        losses.append(step_heads(heads, optimizer, *batch, text, said["lambda_v"], said["lambda_t"]))
        if step == 0:
            grads = {name: value.grad.clone() for name, value in heads.named_parameters() if value.grad is not None}
    assert_near(torch.stack(losses), rows["losses"], 1e-3)
    largest = max(float(rows[f"grads/{name}"].abs().max()) for name in grads)
    for name, gradient in grads.items():
        # What is before a batch normalisation has no bias: its gradient is rounding.
        assert_near(gradient, rows[f"grads/{name}"], 1e-3) if gradient.abs().max() > 1e-6 * largest else None
    heads.eval()
    assert_near(heads(x[0])[0].detach(), rows["final_logits"], 1e-3)
