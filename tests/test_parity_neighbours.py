"""Every recording of the neighbours' released code, within the tolerances of golden/neighbours/README.md."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_cases import TAG
from neighbour_recordings import NEIGHBOURS, assert_near, neighbour, said_of, tensors

from cptlite.methods.probes.clap import NONE, Prototypes, multipliers, take_step
from cptlite.methods.probes.gda import GDA, gaussian_weights
from cptlite.methods.probes.projection import train_maps
from cptlite.methods.probes.prolip import ProLIP
from cptlite.methods.probes.proto_clip import ProtoCLIP
from cptlite.methods.probes.rla import RLA
from cptlite.methods.probes.tes_heads import Heads, _optimizer, step_heads


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
