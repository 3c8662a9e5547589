"""PLOT's transport against loops, a linear programme and its own marginals; its prompts, classifier and rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cache_fakes import FakeBackbone, make_dataset
from golden_cases import make_task, text_encoder
from scipy.optimize import linprog
from started import Started

import cptlite.classifiers.transport
import cptlite.runs.evaluate
from cptlite.cache import open_cache
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import EACH_PAIR, WHOLE_BATCH, Transport, TransportClassifier
from cptlite.config import check_names
from cptlite.datasets.views import ViewConfig
from cptlite.errors import DataError, UsageError
from cptlite.methods.base import Problem
from cptlite.methods.prompts.plot import Plot, PlotOptions
from cptlite.runs.evaluate import evaluate
from cptlite.runs.rows import draw_few_shots

TO_THE_END = Transport(threshold=0)


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    return Problem(tasks=tasks, text=text_encoder("fused"))


def make_plot(problem: Problem, **options: Any) -> Started:
    started = Started(Plot(problem, PlotOptions(context_length=4, **options)))
    context = started.learnables["context"]
    context.data = torch.randn(context.shape) * 0.3
    return started


def slow_plan(cosines: np.ndarray, transport: Transport) -> tuple[np.ndarray, int]:
    """Plan of a whole batch (B, K, M, N) by a plain loop that breaks, and how many iterations it took."""
    kernel = np.exp((cosines - 1) / transport.eps)
    rows, columns = np.ones(kernel.shape[:-1]), np.ones((*kernel.shape[:-2], kernel.shape[-1]))
    for iteration in range(1, transport.iterations + 1):  # noqa: B007
        before = rows
        rows = 1 / kernel.shape[-2] / np.einsum("bkmn,bkn->bkm", kernel, columns)
        columns = 1 / kernel.shape[-1] / np.einsum("bkmn,bkm->bkn", kernel, rows)
        if np.abs(rows - before).mean() < transport.threshold:
            break
    return rows[..., None] * kernel * columns[..., None, :], iteration


def draw_cosines(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64) * 0.8


@pytest.mark.parametrize("transport", [Transport(), Transport(iterations=3), TO_THE_END, Transport(eps=0.05)], ids=str)
def test_the_plan_is_that_of_a_plain_loop(transport: Transport) -> None:
    cosines = draw_cosines(6, 3, 9, 4)
    wanted, _ = slow_plan(cosines.numpy(), transport)
    torch.testing.assert_close(transport.plan(cosines, WHOLE_BATCH), torch.from_numpy(wanted))


def test_runs_stop_on_their_own_and_stay_as_they_were() -> None:
    """Two runs of which one needs more iterations: each has the plan it has alone."""
    transport = Transport(threshold=1e-3)
    cosines = draw_cosines(2, 4, 3, 9, 4)
    cosines[0] = cosines[0] / 20 + 0.5
    slow = [slow_plan(run.numpy(), transport) for run in cosines]
    assert slow[0][1] < slow[1][1] < 100
    together = transport.plan(cosines, WHOLE_BATCH)
    for run, (wanted, _) in enumerate(slow):
        torch.testing.assert_close(together[run], torch.from_numpy(wanted))
        torch.testing.assert_close(together[run], transport.plan(cosines[run], WHOLE_BATCH))
    pairs = transport.plan(cosines, EACH_PAIR)
    torch.testing.assert_close(
        pairs[1, 2, 1], torch.from_numpy(slow_plan(cosines[1, 2:3, 1:2].numpy(), transport)[0][0, 0])
    )


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_and_plans_alike() -> None:
    cosines = draw_cosines(4, 3, 9, 4)
    wanted, on_gpu = Transport().plan(cosines, WHOLE_BATCH), cosines.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = Transport().plan(on_gpu, WHOLE_BATCH)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), wanted)


def test_both_marginals_are_uniform() -> None:
    plan = TO_THE_END.plan(draw_cosines(5, 3, 9, 4).float(), EACH_PAIR)
    torch.testing.assert_close(plan.sum(dim=-2), torch.full((5, 3, 4), 1 / 4))
    torch.testing.assert_close(plan.sum(dim=-1), torch.full((5, 3, 9), 1 / 9))


@pytest.mark.slow
def test_with_little_entropy_the_plan_is_the_linear_programmes() -> None:
    cosines = draw_cosines(1, 1, 5, 3)
    cost = 1 - cosines[0, 0].numpy()
    sums = np.concatenate([np.kron(np.eye(5), np.ones((1, 3))), np.kron(np.ones((1, 5)), np.eye(3))])
    best = linprog(cost.ravel(), A_eq=sums, b_eq=[1 / 5] * 5 + [1 / 3] * 3)
    plans = {
        eps: Transport(eps=eps, iterations=20000, threshold=0).plan(cosines, EACH_PAIR)[0, 0].numpy()
        for eps in (0.1, 0.003)
    }
    gaps = {eps: float((plan * cost).sum() - best.fun) for eps, plan in plans.items()}
    assert abs(gaps[0.003]) < 1e-5 < gaps[0.1]
    np.testing.assert_allclose(plans[0.003].ravel(), best.x, atol=1e-4)


def test_no_gradient_goes_through_the_plan() -> None:
    images, prompts = torch.randn(2, 6, 8), F.normalize(torch.randn(3, 4, 8), dim=-1).requires_grad_()
    found = Transport().similarities(images, prompts, WHOLE_BATCH)
    found.sum().backward()
    places = F.normalize(images, dim=-1)
    plan = Transport().plan(torch.einsum("bmd,knd->bkmn", places, prompts.detach()), WHOLE_BATCH)
    assert prompts.grad is not None
    torch.testing.assert_close(prompts.grad, torch.einsum("bkmn,bmd->knd", plan, places))


def test_each_prompt_has_its_tasks_own_context(problem: Problem) -> None:
    started = make_plot(problem)
    context = started.learnables["context"]
    assert context.shape == (2 * 4, 4, 128)
    before = started.call("prompt_weights").detach()
    assert before.shape == (5, 4, 32)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(5, 4))
    context.data[4 + 2] += torch.randn(4, 128)  # the third of the second task
    changed = (started.call("prompt_weights") - before).abs().amax(dim=-1) > 1e-4
    wanted = torch.zeros(5, 4, dtype=torch.bool)
    wanted[2:, 2] = True
    assert torch.equal(changed, wanted)


def test_a_task_among_others_has_the_logits_it_has_alone(problem: Problem) -> None:
    """But for the rule that stops the iterations, which looks at the whole batch."""
    joint = make_plot(problem, threshold=0)
    alone = make_plot(Problem(tasks=problem.tasks[1:], text=problem.text), threshold=0)
    alone.learnables["context"].data = joint.learnables["context"].data[4:].clone()
    images, labels = torch.randn(3, 9, 32), torch.tensor([0, 2, 1])
    torch.testing.assert_close(joint.logits(images)[:, 2:], alone.logits(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(joint.loss(images, labels + 2), alone.loss(images, labels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_prompts", [1, 3])
def test_options_set_the_prompts_and_the_transport(problem: Problem, num_prompts: int) -> None:
    """Of one prompt a class the plan is uniform: what is left is the mean cosine of the places."""
    started = make_plot(problem, num_prompts=num_prompts, eps=0.2, iterations=7, threshold=0)
    prompts = started.call("prompt_weights")
    assert prompts.shape == (5, num_prompts, 32)
    images = torch.randn(3, 9, 32)
    cosines = torch.einsum("bmd,knd->bkmn", F.normalize(images, dim=-1), prompts)
    plan, iterations = slow_plan(cosines.detach().double().numpy(), Transport(eps=0.2, iterations=7, threshold=0))
    assert iterations == 7
    scale = math.exp(started.method.logit_scale)
    wanted = scale * (torch.from_numpy(plan).float() * cosines).sum(dim=(-2, -1))
    torch.testing.assert_close(started.logits(images), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(started.classifier().scores(images), wanted.detach(), rtol=1e-4, atol=1e-4)
    if num_prompts == 1:
        torch.testing.assert_close(wanted, scale * cosines[..., 0].mean(dim=-1), rtol=1e-4, atol=1e-4)


def test_scores_depend_on_nothing_beside_the_image_and_the_class(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = make_plot(problem, threshold=0.5).classifier()
    images = torch.randn(7, 9, 32).half()
    whole = classifier.scores(images)
    assert whole.shape == (7, 5)
    torch.testing.assert_close(classifier.scores(images[2:4], slice(1, 3)), whole[2:4, 1:3])
    monkeypatch.setattr(cptlite.classifiers.transport, "SCORED_AT_ONCE", 1)
    torch.testing.assert_close(classifier.scores(images), whole)
    assert classifier.scores(images[:0]).shape == (0, 5)


def test_tensors_and_values_score_without_a_text_encoder(problem: Problem) -> None:
    images = torch.randn(1, 9, 32)
    classifier = make_plot(problem).classifier()
    tensors, values = classifier.tensors(), classifier.values()
    assert tensors.keys() == {"prompts"}
    assert values.keys() == {"eps", "iterations", "threshold", "logit_scale"}
    assert tensors["prompts"].shape == (5, 4, 32)
    transport = Transport(**{name: values[name] for name in ("eps", "iterations", "threshold")})
    units = F.normalize(images[0].double(), dim=-1).numpy()
    for index in range(5):  # one pair each, as a classifier stops
        cosines = np.einsum("md,nd->mn", units, tensors["prompts"][index])[None, None]
        wanted = math.exp(values["logit_scale"]) * (slow_plan(cosines, transport)[0] * cosines).sum()
        np.testing.assert_allclose(classifier.scores(images)[0, index], wanted, rtol=1e-4)


def test_contexts_from_words_would_stay_alike() -> None:
    with pytest.raises(UsageError, match="plot has no option 'context_init'"):
        check_names("plot", {"context_init": "a photo of a"})


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path / "images")
    settings = {"workers": 0, "views": ViewConfig(views=2), "patches": True}
    return encode_dataset(dataset, FakeBackbone(), tmp_path / "cache", **settings).path


def test_rows_are_the_plain_views_local_features(cached: Path) -> None:
    with open_cache(cached) as cache:
        device = torch.device("cpu")
        train, val = draw_few_shots([cache, cache], shots=2, seed=1, device=device, patches=True)
        pooled, pooled_val = draw_few_shots([cache, cache], shots=2, seed=1, device=device)
    assert train.features.shape == (2 * 12, 1, 3, 8) and val.features.shape[1:] == (1, 3, 8)
    assert torch.equal(train.labels, pooled.labels) and torch.equal(val.labels, pooled_val.labels)
    assert torch.equal(train.features[:, 0, 0], pooled.features[:, 0])  # the first place of the fake is the pooled one


def test_random_views_differ_without_harm_where_none_is_read(cached: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "images", name="other")
    plain = encode_dataset(other, FakeBackbone(), tmp_path / "cache", workers=0, patches=True).path
    device = torch.device("cpu")
    with open_cache(cached) as two_views, open_cache(plain) as one_view:
        draw_few_shots([two_views, one_view], shots=2, seed=1, device=device, patches=True)
        with pytest.raises(DataError, match="different numbers of views"):
            draw_few_shots([two_views, one_view], shots=2, seed=1, device=device)


def test_rows_of_a_cache_without_local_features(tmp_path: Path) -> None:
    path = encode_dataset(make_dataset(tmp_path / "images"), FakeBackbone(), tmp_path / "cache", workers=0).path
    with open_cache(path) as cache, pytest.raises(DataError, match="cptlite cache --patches --force"):
        draw_few_shots([cache], shots=2, seed=1, device=torch.device("cpu"), patches=True)


def test_local_test_rows_are_scored_as_they_are_read(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = F.normalize(torch.randn(6, 4, 8), dim=-1)
    classifier = TransportClassifier(prompts=prompts, transport=Transport(), logit_scale=1.0)
    sizes: list[int] = []
    scores = TransportClassifier.scores

    def watched(self: TransportClassifier, features: torch.Tensor, classes: slice) -> torch.Tensor:
        assert features.shape[1:] == (3, 8)
        sizes.append(len(features))
        return scores(self, features, classes)

    monkeypatch.setattr(TransportClassifier, "scores", watched)
    found = []
    for chunk in (100, 2):
        monkeypatch.setattr(cptlite.runs.evaluate, "PATCH_CHUNK", chunk)
        with open_cache(cached) as cache:
            found.append(evaluate(classifier, [cache], torch.device("cpu"), patches=True))
    assert sizes == [5, 5, 2, 2, 1, 2, 2, 1]  # ten rows of two tasks
    assert [each.scores() for each in found[0]] == [each.scores() for each in found[1]]
    with open_cache(cached) as cache:
        local, labels, tasks = cache.patches("test"), cache.labels("test"), cache.row_tasks("test")
    for task, scored in enumerate(found[0]):
        own = classifier.scores(torch.from_numpy(local[tasks == task]), slice(3 * task, 3 * task + 3))
        assert scored.scores()["acc1"] == pytest.approx(float((own.argmax(-1).numpy() == labels[tasks == task]).mean()))
