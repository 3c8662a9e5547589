"""Probes on hand-made features, and what the prompt methods learn: shapes, joint gradients, the method table."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_backbone, make_task, text_encoder
from started import Started

from cptlite.classifiers import LinearClassifier
from cptlite.config import resolve_config
from cptlite.datasets.types import Task
from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Learned, Problem
from cptlite.methods.probes.linear_probe import search_c
from cptlite.methods.prompts.prograd import project
from cptlite.methods.table import METHODS, find_method

DIM = 8
GIVEN = {"suite": "s", "datasets": ("a",), "backbone": "demo"}
STEPPED = [name for name, entry in METHODS.items() if entry.stepped]


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    return Problem(tasks=tasks, text=text_encoder("fused"))


@pytest.fixture
def rows() -> FewShotRows:
    """Six rows of each of five classes, around one corner a class."""
    labels = torch.arange(5).repeat(6)
    features = 4 * torch.eye(5, DIM)[labels] + 0.3 * torch.randn(30, DIM)
    return FewShotRows(features=features[:, None], labels=labels)


def fit(problem: Problem, name: str, train: FewShotRows, val: FewShotRows, **options: object) -> Learned:
    """Fit a method of the table."""
    entry = find_method(name)
    probe = entry.probe(name, entry.new_options(**options))
    return probe.fit(problem, train, val, torch.Generator())


def start(problem: Problem, name: str, **options: object) -> Started:
    """Start a prompt method of the table."""
    entry = find_method(name)
    return Started(entry.method(problem, entry.new_options(**options)))


def zero_shot(problem: Problem, rows: FewShotRows, *templates: str) -> LinearClassifier:
    learned = fit(problem, "zeroshot", rows, rows, templates=templates)
    assert learned.num_parameters == 0
    assert isinstance(learned.classifier, LinearClassifier)
    return learned.classifier


def test_zero_shot_uses_each_tasks_template(problem: Problem, rows: FewShotRows) -> None:
    classifier = zero_shot(problem, rows)
    text = problem.text.encode_texts(["a photo of a dog.", "kiwi fruit."])
    torch.testing.assert_close(classifier.weights[[1, 3]], F.normalize(text, dim=-1), rtol=1e-4, atol=1e-6)
    assert classifier.unit_length


def test_zero_shot_ensemble_is_the_normalised_mean(problem: Problem, rows: FewShotRows) -> None:
    weights = zero_shot(problem, rows, "a {} outdoors.", "one {}.").weights
    texts = problem.text.encode_texts(["a kiwi outdoors.", "one kiwi."])
    mean = F.normalize(texts, dim=-1).mean(dim=0)
    torch.testing.assert_close(weights[3], mean / mean.norm(), rtol=1e-4, atol=1e-6)
    single = zero_shot(problem, rows, "{} fruit.").weights
    torch.testing.assert_close(single[2:], zero_shot(problem, rows).weights[2:], rtol=1e-4, atol=1e-6)


def test_prototype_is_the_nearest_mean(problem: Problem, rows: FewShotRows) -> None:
    learned = fit(problem, "prototype", rows, rows)
    units = F.normalize(rows.features[:, 0], dim=-1)
    means = torch.stack([units[rows.labels == label].mean(0) for label in range(5)])
    query = torch.randn(20, DIM)
    nearest = torch.cdist(F.normalize(query, dim=-1), means).argmin(-1)
    assert torch.equal(learned.classifier.scores(query).argmax(-1), nearest)
    assert learned.num_parameters == 5 * DIM


def test_linear_probe_fits_each_task_on_its_own(problem: Problem, rows: FewShotRows) -> None:
    learned = fit(problem, "linear-probe", rows, rows)
    scores = learned.classifier.scores(rows.features[:, 0])
    masked = scores.masked_fill(problem.class_tasks[rows.labels][:, None] != problem.class_tasks, -torch.inf)
    assert torch.equal(masked.argmax(-1), rows.labels)
    assert learned.choices.keys() == {"animal", "fruit"}
    assert learned.num_parameters == 5 * DIM + 5


def test_linear_probe_takes_c_as_given_or_1_without_validation_rows(problem: Problem, rows: FewShotRows) -> None:
    empty = FewShotRows(features=rows.features[:0], labels=rows.labels[:0])
    default, one, two = (fit(problem, "linear-probe", rows, empty, **given) for given in ({}, {"C": 1.0}, {"C": 2.0}))
    assert default.choices == one.choices == two.choices == {}
    weights = [learned.classifier.tensors()["weights"] for learned in (default, one, two)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("peak", [-5.3, -2.0, 0.0, 0.4, 3.1])
def test_c_search_finds_a_single_peak(peak: float) -> None:
    found = math.log10(search_c(lambda c: -abs(math.log10(c) - peak)))
    assert abs(found - peak) <= 1 / 2**7


def test_c_search_asks_for_seven_and_then_eight_more() -> None:
    asked: set[float] = set()

    def score(c: float) -> float:
        asked.add(round(math.log10(c), 6))
        return 0.5

    search_c(score)
    assert asked >= {6, 4, 2, 0, -2, -4, -6}
    assert len(asked) == 7 + 2 + 6  # both ends, then a new end a step; one of them is the centre again


def test_linear_classifier_scales_and_normalises() -> None:
    classifier = LinearClassifier.from_prompts(torch.eye(3), math.log(100))
    np.testing.assert_allclose(classifier.scores(torch.tensor([[0.0, 5.0, 0.0]])), [[0, 100, 0]], rtol=1e-5)


def test_table_finds_methods_and_their_variants() -> None:
    assert find_method("softcpt").variants == ("nata", "nats", "cata", "cats", "csta", "csts")
    assert find_method("coop-mt").variants == ()
    with pytest.raises(UsageError, match="unknown method 'softcp': did you mean 'softcpt'?"):
        find_method("softcp")
    with pytest.raises(UsageError, match="unknown variant 'xxxx': give one of nata, nats"):
        find_method("softcpt").new_options(variant="xxxx")
    with pytest.raises(UsageError, match="coop-mt has no option 'variant'"):
        resolve_config({**GIVEN, "method": "coop-mt", "variant": "nata"})


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("coop-mt", 16 * 128),
        ("coop-ca", 2 * 16 * 128),
        ("coop-cs", 5 * 16 * 128),
        ("cocoop", 16 * 128 + 2 * (32 + 1) + 128 * (2 + 1)),
        ("taskres", 5 * 32),
        ("kgcoop", 2 * 16 * 128),
        ("prograd", 2 * 16 * 128),
        ("dapt-text", 2 * 16 * 128),
        ("lasp-text", 2 * 16 * 128 + 2 * 32),
        ("kron-ctx", 2 * (16 * 64 + 4 * 16 + 16 * 8)),
        ("argue-text", 2 * 16 * 128 + 2 * 32),
        ("argue-n-text", 2 * 16 * 128 + 2 * 32),
        ("plot", 2 * 4 * 16 * 128),
        ("softcpt", 4 * 128 + 32 * 16 * 128),
    ],
)
def test_parameter_counts(problem: Problem, name: str, count: int) -> None:
    assert golden_backbone().embed_dim == 32
    if name == "cocoop":
        problem = replace(problem, tasks=problem.tasks[:1])
    words = (
        {"context_init": "", "context_length": 16} if hasattr(find_method(name).new_options(), "context_init") else {}
    )
    assert start(problem, name, **words).num_parameters() == count


@pytest.mark.parametrize("name", STEPPED)
def test_a_classifier_scores_as_the_method_does(name: str, problem: Problem) -> None:
    """And stays when the learnables go on, in place as steps do."""
    if name == "cocoop":
        problem = replace(problem, tasks=(make_task("all", problem.class_names),))
    started = start(problem, name, **({"threshold": 0} if name == "plot" else {}))  # which stops by the batch
    images = torch.randn(6, *((7, 32) if name == "plot" else (32,)))

    def move() -> None:
        for value in started.learnables.values():
            value.data += torch.randn(value.shape)

    move()
    classifier, logits = started.classifier(), started.logits(images).detach()
    before = classifier.scores(images)
    torch.testing.assert_close(before, logits, rtol=1e-4, atol=1e-4)
    move()
    assert torch.equal(classifier.scores(images), before)
    assert (started.logits(images) - logits).abs().max() > 0.1


@pytest.mark.parametrize("name", ["kgcoop", "prograd", "dapt-text", "lasp-text", "argue-n-text"])
def test_joint_gradients_are_the_tasks_own_by_their_share(name: str, problem: Problem) -> None:
    """Tasks trained together get the gradients of tasks trained alone, weighted by their images in the batch."""
    tasks = problem.tasks
    images, labels = torch.randn(12, 32), torch.tensor([0, 1, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4])

    def gradient(own: tuple[Task, ...], rows: torch.Tensor, offset: int) -> torch.Tensor:
        started = start(replace(problem, tasks=own), name, context_length=4, context_init="")
        context = started.learnables["context"]
        context.data = context.data[:1].expand_as(context).clone()
        return started.gradients(images[rows], labels[rows] - offset)[1]["context"]

    first, second = labels < 2, labels >= 2
    joint = gradient(tasks, torch.arange(12), 0)
    alone = (gradient(tasks[:1], first, 0)[0] * 3 / 12, gradient(tasks[1:], second, 2)[0] * 9 / 12)
    for found, wanted in zip(joint, alone, strict=True):
        assert (found - wanted).norm() < 1e-4 * wanted.norm()
    # A task that is not in the batch is left alone.
    assert gradient(tasks, second, 0)[0].abs().max() == 0


@pytest.mark.parametrize(("strength", "left"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (2.0, -1.0)])
def test_projection_by_hand(strength: float, left: float) -> None:
    gradient = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]]])
    general = torch.tensor([[[[0.0, -5.0]], [[0.0, 5.0]], [[0.0, 0.0]]]])
    wanted = torch.tensor([[[[1.0, left]], [[1.0, 1.0]], [[1.0, 1.0]]]])
    assert torch.equal(project(gradient, general, strength), wanted)


def test_a_methods_own_defaults_give_way_to_what_is_given() -> None:
    own = resolve_config({**GIVEN, "method": "kgcoop"}).to_json()
    assert (own["context_length"], own["context_init"], own["epochs"]) == (4, "a photo of a", 50)
    assert resolve_config({**GIVEN, "method": "kgcoop", "context_init": ""}).to_json()["context_init"] == ""
    separate = {name for name in METHODS if resolve_config({**GIVEN, "method": name}).separate}
    of_words = {"argue-n-text", "argue-text", "dapt-text", "kgcoop", "kron-ctx", "lasp-text", "prograd"}
    assert separate == {"cocoop", "plot", "taskres", *of_words}
    assert not resolve_config({**GIVEN, "method": "kgcoop", "separate": False}).separate
    cocoop = resolve_config({**GIVEN, "method": "cocoop"}).to_json()
    assert (cocoop["context_length"], cocoop["epochs"], cocoop["batch_size"]) == (4, 10, 1)
    assert resolve_config({**GIVEN, "method": "softcpt"}).variant == "nata"
    with pytest.raises(UsageError, match="softcpt has no option 'shot': did you mean 'shots'?"):
        resolve_config({**GIVEN, "method": "softcpt", "shot": 4})


def test_softcpt_refuses_what_it_cannot_use() -> None:
    with pytest.raises(UsageError, match="softcpt has no option 'context_init'"):
        resolve_config({**GIVEN, "method": "softcpt", "context_init": "a photo of a"})
    with pytest.raises(UsageError, match="unknown sub-network 'mlp': give one of lin, linmean, lincls"):
        resolve_config({**GIVEN, "method": "softcpt", "sub_network": "mlp"})


def test_start_from_words(problem: Problem) -> None:
    words = problem.text.word_vectors("a photo of a")
    context = start(problem, "coop-ca", context_init="a photo of a").learnables["context"]
    assert torch.equal(context, words.expand(2, -1, -1))
    learned = start(
        problem, "softcpt", variant="csts", task_context_init="a photo", class_context_init="of a"
    ).learnables
    assert torch.equal(learned["task_context"], words[:2].expand(2, -1, -1))
    assert torch.equal(learned["class_context"], words[2:].expand(5, -1, -1))
