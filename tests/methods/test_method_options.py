"""Every option of every method: it can be given, it changes what comes out, and it is no option of other methods."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from started import Started
from torch import Tensor

from cptlite.config import known_options, resolve_config
from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Learned, Problem
from cptlite.methods.class_texts import ClassTexts
from cptlite.methods.probes.lp_plus_plus import blend_step, first_blend
from cptlite.methods.probes.tip_adapter import train_keys
from cptlite.methods.table import METHODS, find_method
from cptlite.methods.templates import zero_shot_weights

DIM = 32  # of the recordings' CLIP
GIVEN = {"suite": "s", "datasets": ("a",), "backbone": "demo"}
QUICK: dict[str, dict[str, Any]] = {
    "cross-modal": {"steps": 60},
    "lp++": {"epochs": 30},
    "zs-lp": {"epochs": 30},
    "clap": {"epochs": 30},
    "rla": {"epochs": 10},
    "prolip": {"epochs": 10},
    "tes-heads": {"epochs": 10},
}

OTHERS: dict[str, Any] = {
    "C": 1e-3,
    "alpha": 0.25,
    "attributes": ClassTexts(
        "attributes",
        {"cat": ["with fur"], "dog": ["barking", "on a lead"], "fig": ["ripe"], "kiwi": ["raw"], "plum": ["blue"]},
    ),
    "block": 1,
    "beta": 3.5,
    "class_context_init": "a photo",
    "class_context_length": 2,
    "constraint": "balanced",
    "context_init": "one of the",
    "context_length": 3,
    "correction": False,
    "descriptions": ClassTexts("descriptions", {"kiwi": ["a small round thing."], "dog": ["a loud one.", "it barks."]}),
    "epochs": 2,
    "eps": 0.5,
    "freeze_class_context": True,
    "gamma": 9.0,
    "head_rate": 2.0,
    "iterations": 1,
    "keep": 0.25,
    "linear_share": 0.125,
    "lr": 0.05,
    "negative_strength": 0.25,
    "num_bases": 16,
    "num_prompts": 2,
    "position": "front",
    "rate": 0.25,
    "reduction": 8,
    "similarity_weight": 0.95,
    "source": "elsewhere@0123456789abcdef",
    "steps": 3,
    "soft_share": 0.75,
    "strength": 0.125,
    "sub_network": "linmean",
    "task_context_init": "a photo",
    "task_context_length": 2,
    "supports": ("made", "found"),
    "templates": ("a sketch of {} in rain.",),
    "temperature": 5.0,
    "text_weight": 7.0,
    "threshold": 1e30,
    "variant": "csts",
    "zero_other_tasks": True,
}
"""A value of each option that is no method's default."""

BESIDE = {
    "class_context_init": {"variant": "cata"},
    "class_context_length": {"variant": "cata"},
    "freeze_class_context": {"variant": "cata"},
    "sub_network": {"variant": "cata"},
    "context_length": {"context_init": ""},
    "threshold": {"eps": 0.02},
}
"""What else is given, since without it an option has nothing to act on."""

CASES = [(name, each.name) for name, entry in METHODS.items() for each in entry.list_options()]
LISTS = ("supports", "templates")
OF_ROWS = ("supports",)  # says whose rows are drawn: tests/runs/test_support.py


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    return Problem(tasks=tasks, text=text_encoder("fused"))


def draw(rows_a_class: int) -> FewShotRows:
    """Rows around one corner a class."""
    labels = torch.arange(5).repeat(rows_a_class)
    features = 4 * torch.eye(5, DIM)[labels][:, None] + torch.randn(len(labels), 2, DIM)
    return FewShotRows(features=features, labels=labels)


def fit(problem: Problem, name: str, val: FewShotRows | None = None, **options: Any) -> Learned:
    """Fit a method of the table on the same rows each time."""
    torch.manual_seed(0)
    train, own_val = draw(4), draw(3)
    entry = find_method(name)
    probe = entry.probe(name, entry.new_options(**options))
    return probe.fit(problem, train, own_val if val is None else val, torch.Generator().manual_seed(1))


def start(problem: Problem, name: str, **options: Any) -> Started:
    """Start a prompt method from the same learnables each time, moved away from where its options start it."""
    entry = find_method(name)
    if name == "cocoop":
        problem = replace(problem, tasks=(make_task("all", problem.class_names),))
    started = Started(entry.method(problem, entry.new_options(**options)), seed=2)
    generator = torch.Generator().manual_seed(3)
    for value in started.learnables.values():
        value.data += 0.2 * torch.randn(value.shape, generator=generator)
    return started


def draw_batch(problem: Problem, name: str) -> tuple[Tensor, Tensor]:
    """Images of both tasks, with the classes that zero-shot CLIP finds least likely: steps go against what it knows."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(10, *((7, DIM) if name == "plot" else (DIM,)), generator=generator)
    pooled = images.mean(dim=1) if name == "plot" else images
    cosines = F.normalize(pooled, dim=-1) @ zero_shot_weights(problem).T
    return images, torch.cat([cosines[:5, :2].argmin(dim=1), 2 + cosines[5:, 2:].argmin(dim=1)])


def outcome(problem: Problem, name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Everything that options may change: of a prompt method logits and gradients, else the classifier."""
    if not find_method(name).stepped:
        classifier = fit(problem, name, **{**QUICK.get(name, {}), **options}).classifier
        scores = classifier.scores(torch.randn(9, DIM, generator=torch.Generator().manual_seed(5)))
        return {**classifier.tensors(), "scores": scores}
    started = start(problem, name, **options)
    images, labels = draw_batch(problem, name)
    loss, gradients = started.gradients(images, labels)
    if name == "nlprompt":
        drawn = torch.Generator().manual_seed(5)
        features = torch.randn(200, 1, DIM, generator=drawn)
        every = FewShotRows(features=features, labels=torch.randint(5, (200,), generator=drawn))
        gradients["marks"] = started.method.mark_rows(started.learnables, every).float()
    rates = {f"rate of {key}": torch.tensor(value) for key, value in started.method.rate_factors.items()}
    return {"loss": loss, "logits": started.logits(images).detach(), **gradients, **rates}


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """A thousandth of the largest number apart at most; gradients are small, so none of zeros is near."""
    largest = float(wanted.abs().max())
    assert largest > 1e-5
    assert float((found - wanted).abs().max()) < 1e-3 * largest


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """By more than rounding: something has another shape, or numbers a thousandth away."""
    if one.keys() != other.keys() or any(value.shape != other[name].shape for name, value in one.items()):
        return True
    return any(
        float((value - other[name]).abs().max()) > 1e-3 * float(value.abs().max()) for name, value in one.items()
    )


# A source is read where a run begins (tests/runs/test_source_runs.py), not by the method.
@pytest.mark.parametrize(
    ("name", "option"), [each for each in CASES if each[1] not in (*OF_ROWS, "source")], ids=lambda case: case
)
def test_an_option_changes_what_comes_out(problem: Problem, name: str, option: str) -> None:
    known = {each.name: each for each in find_method(name).list_options()}
    other = OTHERS[option]
    assert other != known[option].default
    beside = {key: value for key, value in BESIDE.get(option, {}).items() if key in known}
    usual = outcome(problem, name, beside)
    assert not differ(usual, outcome(problem, name, beside))
    assert differ(usual, outcome(problem, name, {**beside, option: other}))


@pytest.mark.parametrize(("name", "option"), CASES, ids=lambda case: case)
def test_an_option_arrives_from_a_flat_list(name: str, option: str) -> None:
    """As the command line, Python and config.json give it; into the last of these too."""
    beside = {"variant": "cata"} if option == "freeze_class_context" else {}
    config = resolve_config({**GIVEN, "method": name, **beside, option: OTHERS[option]})
    assert asdict(config.options)[option] == OTHERS[option]
    assert config.to_json()[option] == (list(OTHERS[option]) if option in LISTS else OTHERS[option])


@pytest.mark.parametrize("name", METHODS)
def test_options_of_other_methods_are_refused(name: str) -> None:
    own = {each.name for _, each in known_options(find_method(name))}
    every = {each.name for entry in METHODS.values() for _, each in known_options(entry)}
    assert own < every
    for option in sorted(every - own - {"recipe"}):  # which has a message of its own
        with pytest.raises(UsageError, match=f"{name.replace('+', '.')} has no option '{option}'"):
            resolve_config({**GIVEN, "method": name, option: OTHERS.get(option, 1)})


# Off-switches: what a method is without its own idea


@pytest.mark.parametrize("name", ["kgcoop", "prograd", "dapt-text"])
def test_without_strength_it_is_coop(problem: Problem, name: str) -> None:
    context = {"context_length": 4, "context_init": ""}
    coop = outcome(problem, "coop-ca", context)
    without = outcome(problem, name, {**context, "strength": 0})
    assert without.keys() == coop.keys() == {"loss", "logits", "context"}
    for key, value in coop.items():
        assert_near(without[key], value)
    assert differ(outcome(problem, name, context), coop)


def test_kgcoops_pull_is_as_strong_as_it_is_given(problem: Problem) -> None:
    off, on, double = (
        start(problem, "kgcoop", strength=strength).gradients(*draw_batch(problem, "kgcoop"))[1]["context"]
        for strength in (0, 1, 2)
    )
    assert_near(double - off, 2 * (on - off))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_prograds_general_direction_has_its_temperature(problem: Problem, temperature: float) -> None:
    """T^2 times the cross-entropy between zero-shot and current softmax at T, by autograd on the plain logits."""
    started = start(problem, "prograd", temperature=temperature, strength=0.75)
    images, labels = draw_batch(problem, "prograd")
    learnables = started.stacked()
    logits = started.method.logits(learnables, images[None])[0]
    scale = math.exp(problem.text.tower.logit_scale)
    teacher = scale * F.normalize(images, dim=-1) @ zero_shot_weights(problem).T
    losses, distances = [], []
    for own, known, label in zip(logits, teacher, labels, strict=True):
        of_task = slice(0, 2) if label < 2 else slice(2, 5)
        losses.append(F.cross_entropy(own[of_task], label - of_task.start))
        shares = F.softmax(known[of_task] / temperature, dim=0)
        distances.append(-(shares * F.log_softmax(own[of_task] / temperature, dim=0)).sum() * temperature**2)
    context = learnables["context"]
    (pull,) = torch.autograd.grad(torch.stack(losses).mean(), context, retain_graph=True)
    (general,) = torch.autograd.grad(torch.stack(distances).mean(), context)
    wanted, conflicts = [], []
    for one, other in zip(pull[0], general[0], strict=True):  # each task's context
        conflicts.append(float((one * other).sum() / other.norm()))
        wanted.append(one - 0.75 * min(conflicts[-1], 0) * other / other.norm())
    assert min(conflicts) < 0
    assert_near(started.gradients(images, labels)[1]["context"], torch.stack(wanted))


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_without_votes_tip_adapter_is_zero_shot(problem: Problem, name: str) -> None:
    templates = ("a sketch of {}.", "one {}.")
    images = torch.randn(9, DIM)
    plain = fit(problem, "zeroshot", templates=templates).classifier.scores(images)
    torch.testing.assert_close(fit(problem, name, alpha=0, templates=templates).classifier.scores(images), plain)
    assert (fit(problem, name, alpha=2, templates=templates).classifier.scores(images) - plain).abs().max() > 0.1


def test_without_residuals_strength_taskres_is_zero_shot(problem: Problem) -> None:
    started = start(problem, "taskres", strength=0)
    torch.testing.assert_close(started.call("class_weights"), zero_shot_weights(problem))
    assert start(problem, "taskres").call("class_weights").sub(zero_shot_weights(problem)).abs().max() > 0.01


# Numbers of steps: as many as given


@pytest.mark.parametrize("steps", [1, 7])
def test_cross_modal_takes_so_many_steps(problem: Problem, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from cptlite.methods.probes import cross_modal

    taken: list[float] = []
    step = cross_modal.AdamW.step
    monkeypatch.setattr(cross_modal.AdamW, "step", lambda *args: taken.append(args[2]) or step(*args))
    learned = fit(problem, "cross-modal", steps=steps)
    assert taken == [(index + 1) / 50 for index in range(steps)] * 2  # two tasks, in the warm-up
    assert all(choice["step"] in (1, steps) for choice in learned.choices.values())
    moved = (learned.classifier.tensors()["weights"] - zero_shot_weights(problem)).abs().max()
    assert 0 < moved <= 1.01e-3 * sum(taken[:steps])


def test_lp_takes_so_many_epochs(problem: Problem) -> None:
    learned = fit(problem, "lp++", epochs=1)
    assert learned.choices == {"animal": {"epoch": 1}, "fruit": {"epoch": 1}}
    torch.manual_seed(0)
    own, text = draw(4).of_classes(2, 5), zero_shot_weights(problem)[2:]
    x, y = F.normalize(own.features, dim=-1).flatten(0, 1), own.labels.repeat_interleave(2)
    blend = first_blend(x, y, text)
    blend_step(blend, x, y, text, (torch.zeros(3, DIM), torch.zeros(3)), False)
    found = learned.classifier.tensors()
    torch.testing.assert_close(found["weights"][2:], blend.weights(text))
    torch.testing.assert_close(found["bias"][2:], blend.bias)


def test_tip_adapter_f_trains_with_what_is_given(problem: Problem) -> None:
    """So many epochs, at the alpha and beta given."""
    torch.manual_seed(0)
    own = draw(4).of_classes(0, 2)
    units = F.normalize(own.features, dim=-1)
    keys = F.normalize(units.mean(dim=1), dim=-1)
    text = math.exp(problem.text.tower.logit_scale) * zero_shot_weights(problem)[:2]
    generator = torch.Generator().manual_seed(1)
    wanted = train_keys(keys, units, own.labels, text, 3, generator=generator, alpha=0.5, beta=4.0)
    found = fit(problem, "tip-adapter-f", epochs=3, alpha=0.5, beta=4.0).classifier.tensors()["keys"][: len(keys)]
    torch.testing.assert_close(found, wanted)
    assert 0 < (wanted - keys).abs().max() < 3.1e-3  # AdamW's steps of 1e-3


# Numbers that are chosen unless they are given


def test_tip_adapter_takes_alpha_and_beta_as_given(problem: Problem) -> None:
    """What is not given is chosen on validation rows, where there are any; what is given is no choice."""
    val = draw(3)
    empty = FewShotRows(features=val.features[:0], labels=val.labels[:0])

    def blend(rows: FewShotRows, **options: float) -> tuple[float, float, dict[str, dict[str, float]]]:
        learned = fit(problem, "tip-adapter", rows, **options)
        tensors = learned.classifier.tensors()
        assert len(tensors["alpha"]) == len(tensors["beta"]) == 5
        return float(tensors["alpha"][0]), float(tensors["beta"][0]), learned.choices

    assert blend(empty, alpha=0.25, beta=4.0) == (0.25, 4.0, {})
    assert blend(val, alpha=0.25, beta=4.0) == (0.25, 4.0, {})
    alpha, beta, choices = blend(val, alpha=0.25)
    assert alpha == 0.25 and choices["animal"] == {"beta": pytest.approx(beta)}
    alpha, beta, choices = blend(val, beta=4.0)
    assert beta == 4.0 and choices["animal"] == {"alpha": pytest.approx(alpha)}
    assert blend(val)[2]["animal"].keys() == {"alpha", "beta"}
    assert blend(empty) == (pytest.approx(1.17), 1.0, {})
    assert blend(empty, alpha=0.25) == (0.25, 1.0, {})
    assert blend(empty, beta=4.0) == (pytest.approx(1.17), 4.0, {})
