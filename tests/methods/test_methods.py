"""Probes on hand-made features, and the shapes of what the prompt methods learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_backbone, make_task, text_encoder

from cptlite.classifiers import LinearClassifier
from cptlite.datasets.types import Task
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import FewShotRows, Problem, PromptOptions, mask_other_tasks
from cptlite.methods.probes.linear_probe import LinearProbe, search_c
from cptlite.methods.probes.per_task import PerTask
from cptlite.methods.probes.prototype import PrototypeClassifier
from cptlite.methods.probes.zero_shot import ZeroShot
from cptlite.methods.prompts.coop import CoOp
from cptlite.methods.prompts.prograd import project
from cptlite.methods.prompts.softcpt import SoftCPT
from cptlite.methods.table import METHODS, find_method, resolve_config

DIM = 8


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


def test_zero_shot_uses_each_tasks_template(problem: Problem, rows: FewShotRows) -> None:
    classifier = ZeroShot().fit(problem, rows, rows)
    text = problem.text.encode_texts(["a photo of a dog.", "kiwi fruit."])
    torch.testing.assert_close(classifier.weights[[1, 3]], F.normalize(text, dim=-1), rtol=1e-4, atol=1e-6)
    assert classifier.unit_length


def test_zero_shot_ensemble_is_the_normalised_mean(problem: Problem, rows: FewShotRows) -> None:
    mine = replace(problem, templates=("a {} outdoors.", "one {}."))
    weights = ZeroShot().fit(mine, rows, rows).weights
    texts = problem.text.encode_texts(["a kiwi outdoors.", "one kiwi."])
    mean = F.normalize(texts, dim=-1).mean(dim=0)
    torch.testing.assert_close(weights[3], mean / mean.norm(), rtol=1e-4, atol=1e-6)
    single = ZeroShot().fit(replace(problem, templates=("{} fruit.",)), rows, rows).weights
    torch.testing.assert_close(single[2:], ZeroShot().fit(problem, rows, rows).weights[2:], rtol=1e-4, atol=1e-6)


def test_prototype_is_the_nearest_mean(problem: Problem, rows: FewShotRows) -> None:
    method = PerTask("prototype", PrototypeClassifier)
    classifier = method.fit(problem, rows, rows)
    units = F.normalize(rows.features[:, 0], dim=-1)
    means = torch.stack([units[rows.labels == label].mean(0) for label in range(5)])
    query = torch.randn(20, DIM)
    nearest = torch.cdist(F.normalize(query, dim=-1), means).argmin(-1)
    assert torch.equal(classifier.scores(query).argmax(-1), nearest)
    assert method.num_parameters() == 5 * DIM


def test_linear_probe_fits_each_task_on_its_own(problem: Problem, rows: FewShotRows) -> None:
    probe = PerTask("linear-probe", LinearProbe)
    classifier = probe.fit(problem, rows, rows)
    scores = classifier.scores(rows.features[:, 0])
    masked = mask_other_tasks(scores, problem.class_tasks, rows.labels)
    assert torch.equal(masked.argmax(-1), rows.labels)
    assert probe.choices_.keys() == {"animal", "fruit"}
    assert probe.num_parameters() == 5 * DIM + 5


def test_linear_probe_wants_validation_rows(problem: Problem, rows: FewShotRows) -> None:
    empty = FewShotRows(features=rows.features[:0], labels=rows.labels[:0])
    with pytest.raises(DataError, match="has none cached"):
        PerTask("linear-probe", LinearProbe).fit(problem, rows, empty)


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


def test_table_resolves_variants() -> None:
    assert find_method("softcpt")[1] == "nata"
    assert find_method("softcpt", "nats")[1] == "nats"
    with pytest.raises(UsageError, match="unknown method 'softcp'"):
        find_method("softcp")
    with pytest.raises(UsageError, match="unknown variant"):
        find_method("softcpt", "xxxx")
    with pytest.raises(UsageError, match="no variants"):
        find_method("coop-mt", "nata")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("coop-mt", 16 * 128),
        ("coop-ca", 2 * 16 * 128),
        ("coop-cs", 5 * 16 * 128),
        ("cocoop", 16 * 128 + 2 * (32 + 1) + 128 * (2 + 1)),
        ("kgcoop", 2 * 16 * 128),
        ("prograd", 2 * 16 * 128),
        ("plot", 2 * 4 * 16 * 128),
        ("softcpt", 4 * 128 + 32 * 16 * 128),
    ],
)
def test_parameter_counts(problem: Problem, name: str, count: int) -> None:
    entry, variant = METHODS[name], find_method(name)[1]
    assert entry.prompts is not None
    assert golden_backbone().embed_dim == 32
    if name == "cocoop":
        problem = replace(problem, tasks=problem.tasks[:1])
    assert entry.prompts(problem, PromptOptions(), variant).num_parameters() == count


@pytest.mark.parametrize("name", ["kgcoop", "prograd"])
def test_joint_gradients_are_the_tasks_own_by_their_share(name: str) -> None:
    """Tasks trained together get the gradients of tasks trained alone, weighted by their images in the batch."""
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    images, labels = torch.randn(12, 32), torch.tensor([0, 1, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4])

    def gradient(own: tuple[Task, ...], rows: torch.Tensor, offset: int) -> torch.Tensor:
        build = METHODS[name].prompts
        assert build is not None
        torch.manual_seed(0)
        method = build(Problem(tasks=own, text=text_encoder("fused")), PromptOptions(context_length=4), "")
        assert isinstance(method, CoOp)
        method.context.data = method.context.data[:1].expand_as(method.context).clone()
        method.backward(images[rows], labels[rows] - offset)
        assert method.context.grad is not None
        return method.context.grad

    first, second = labels < 2, labels >= 2
    joint = gradient(tasks, torch.arange(12), 0)
    torch.testing.assert_close(joint[0], gradient(tasks[:1], first, 0)[0] * 3 / 12, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(joint[1], gradient(tasks[1:], second, 2)[0] * 9 / 12, rtol=1e-3, atol=1e-6)
    # A task that is not in the batch is left alone.
    assert gradient(tasks, second, 0)[0].abs().max() == 0


def test_projection_by_hand() -> None:
    gradient = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    general = torch.tensor([[[0.0, -5.0]], [[0.0, 5.0]], [[0.0, 0.0]]])
    wanted = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    assert torch.equal(project(gradient, general, 1.0), wanted)


def test_a_methods_own_defaults_give_way_to_what_is_given() -> None:
    base = {"suite": "s", "datasets": ("a",), "backbone": "demo"}
    own = resolve_config({**base, "method": "kgcoop"})
    assert (own.context_length, own.context_init, own.epochs) == (4, "a photo of a", 50)
    assert resolve_config({**base, "method": "kgcoop", "context_init": ""}).context_init == ""
    separate = {name for name in METHODS if resolve_config({**base, "method": name}).separate}
    assert separate >= {"cocoop", "kgcoop", "plot", "prograd"}
    assert not separate & {"coop-ca", "coop-cs", "coop-mt", "softcpt"}
    assert not resolve_config({**base, "method": "kgcoop", "separate": False}).separate
    cocoop = resolve_config({**base, "method": "cocoop"})
    assert (cocoop.context_length, cocoop.epochs, cocoop.batch_size) == (4, 10, 1)
    assert resolve_config({**base, "method": "softcpt"}).variant == "nata"
    with pytest.raises(UsageError, match="unknown configuration key 'shot'"):
        resolve_config({**base, "method": "softcpt", "shot": 4})


def test_softcpt_refuses_what_it_cannot_use(problem: Problem) -> None:
    with pytest.raises(UsageError, match="context-init"):
        SoftCPT(problem, PromptOptions(context_init="a photo of a"))
    with pytest.raises(UsageError, match="sub-network"):
        SoftCPT(problem, PromptOptions(sub_network="mlp"))


def test_start_from_words(problem: Problem) -> None:
    entry = METHODS["coop-ca"]
    assert entry.prompts is not None
    method = entry.prompts(problem, PromptOptions(context_init="a photo of a"), "")
    words = problem.text.word_vectors("a photo of a")
    context = dict(method.named_parameters())["context"]
    assert torch.equal(context, words.expand(2, -1, -1))
