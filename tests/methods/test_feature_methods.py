"""Tip-Adapter, cross-modal and LP++, each against something that shares no code with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_softmax, softmax

from cptlite.classifiers import TipClassifier
from cptlite.methods.base import FewShotRows, Learned, Problem
from cptlite.methods.probes.cross_modal import AdamW, cross_modal_loss
from cptlite.methods.probes.estimator import TaskRows
from cptlite.methods.probes.lp_plus_plus import LPPlusPlus, blend_step, first_blend
from cptlite.methods.probes.per_task import split_tasks
from cptlite.methods.probes.tip_adapter import ALPHAS, BETAS, search_blend, train_keys
from cptlite.methods.table import find_method

DIM = 32  # of the recordings' CLIP


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    return Problem(tasks=tasks, text=text_encoder("fused"))


METHODS: dict[str, dict[str, int]] = {
    "tip-adapter": {},
    "tip-adapter-f": {},
    "cross-modal": {"steps": 120},  # fewer of the cheap steps: quick on a busy machine
    "lp++": {"epochs": 60},
}
"""Options of each."""


def fit(problem: Problem, name: str, train: FewShotRows, val: FewShotRows, seed: int = 0, **options: object) -> Learned:
    entry = find_method(name)
    probe = entry.probe(name, entry.new_options(**{**METHODS[name], **options}))
    return probe.fit(problem, train, val, torch.Generator().manual_seed(seed))


def draw(rows_a_class: int, views: int = 1) -> FewShotRows:
    """Rows around one corner a class."""
    labels = torch.arange(5).repeat(rows_a_class)
    features = 4 * torch.eye(5, DIM)[labels][:, None] + torch.randn(len(labels), views, DIM)
    return FewShotRows(features=features, labels=labels)


def units(count: int, dim: int = DIM, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, dtype=dtype), dim=-1)


@pytest.mark.parametrize("name", METHODS)
def test_each_task_is_fitted_and_chosen_on_its_own(name: str, problem: Problem) -> None:
    train, val, test = draw(16, views=3), draw(4), draw(20)
    # Texts of an untrained encoder mislead; it takes cross-modal all its steps to leave them.
    learned = fit(problem, name, train, val, **({"steps": 1000} if name == "cross-modal" else {}))
    classifier = learned.classifier
    assert learned.choices.keys() == {"animal", "fruit"}
    for classes in (slice(0, 2), slice(2, 5)):
        here = (classes.start <= test.labels) & (test.labels < classes.stop)
        scores = classifier.scores(test.features[here, 0], classes)
        assert scores.shape == (here.sum(), classes.stop - classes.start)
        assert (scores.argmax(-1) + classes.start == test.labels[here]).float().mean() > 0.8
        whole = classifier.scores(test.features[here, 0])[:, classes]
        torch.testing.assert_close(scores, whole)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bytes_and_rows_left_as_they_were(name: str, problem: Problem) -> None:
    train, val = draw(4, views=3), draw(2)
    before = train.features.clone()
    stored = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(stored))  # what PyTorch's own generator is at has no part in it
        stored.append(fit(problem, name, train, val, seed).classifier.tensors())
    assert all(torch.equal(value, stored[1][key]) for key, value in stored[0].items())
    draws = name in ("tip-adapter-f", "cross-modal")
    assert draws == any(not torch.equal(value, stored[2][key]) for key, value in stored[0].items())
    assert torch.equal(train.features, before)


@pytest.mark.parametrize("name", METHODS)
def test_a_task_without_validation_rows_takes_the_defaults(name: str, problem: Problem) -> None:
    """As many as it says; the tasks that have some choose."""
    train, val = draw(2), draw(2)
    some = FewShotRows(features=val.features[val.labels < 2], labels=val.labels[val.labels < 2])
    none = FewShotRows(features=val.features[:0], labels=val.labels[:0])
    assert fit(problem, name, train, some).choices.keys() == {"animal"}
    untuned = fit(problem, name, train, none)
    assert untuned.choices == {}
    assert all(tensor.isfinite().all() for tensor in untuned.classifier.tensors().values())
    given = {"tip-adapter": {"alpha": 1.17, "beta": 1.0}, "tip-adapter-f": {"alpha": 1.17, "beta": 1.0}}.get(name, {})
    same = fit(problem, name, train, none, **given).classifier.tensors()
    assert all(torch.equal(value, same[key]) for key, value in untuned.classifier.tensors().items())


def test_parameter_counts(problem: Problem) -> None:
    counts = {"tip-adapter": 0, "tip-adapter-f": 10 * DIM, "cross-modal": 5 * DIM, "lp++": 170}
    for name, count in counts.items():
        assert fit(problem, name, draw(2), draw(1)).num_parameters == count


def test_task_rows(problem: Problem) -> None:
    first, second = split_tasks(problem, draw(3, views=2), draw(1))
    assert (first.x.shape, second.x.shape, second.x_val.shape) == ((6, 2, DIM), (9, 2, DIM), (3, DIM))
    assert second.y.tolist() == [0, 1, 2] * 3
    assert second.num_classes == 3
    torch.testing.assert_close(second.units.norm(dim=-1), torch.ones(9, 2))
    x, y = second.all_views()
    assert torch.equal(x[1], second.units[0, 1])
    assert y.tolist() == [0, 0, 1, 1, 2, 2] * 3


def test_tip_adapter_scores_by_hand() -> None:
    """One image between two keys of class 0 and on the key of class 1."""
    classifier = TipClassifier(
        weights=torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        logit_scale=math.log(10),
        keys=torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [1.0, 0.0]]),
        key_labels=torch.tensor([0, 0, 1, 2]),
        alpha=torch.tensor([0.5, 0.5, 7.0]),
        beta=torch.tensor([2.0, 2.0, 3.0]),
    )
    scores = classifier.scores(torch.tensor([[3.0, 4.0]]))  # unit length: (0.6, 0.8)
    first = 10 * 0.6 + 0.5 * (math.exp(-2 * 0.4) + math.exp(-2 * 1.6))
    wanted = [[first, 10 * 0.8 + 0.5, 10 * 0.6 + 7 * math.exp(-3 * 0.4)]]
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


def test_tip_adapter_key_is_the_mean_of_the_views(problem: Problem) -> None:
    train = draw(2, views=3)
    classifier = fit(problem, "tip-adapter", train, draw(1)).classifier
    assert isinstance(classifier, TipClassifier)
    mean = F.normalize(train.features, dim=-1).mean(dim=1)
    order = torch.argsort((train.labels >= 2).long(), stable=True)  # tasks one after the other
    torch.testing.assert_close(classifier.keys, F.normalize(mean, dim=-1)[order])


def test_tip_adapter_search_is_the_first_best_of_the_grid() -> None:
    keys, x, text = units(12, 6), units(15, 6), 4 * units(3, 6)
    key_labels, labels = torch.arange(12) % 3, torch.arange(15) % 3
    alpha, beta = search_blend(x @ text.T, x @ keys.T, key_labels, labels)
    best, wanted = -1.0, (0.0, 0.0)
    one_hot = np.eye(3)[key_labels]
    for b in BETAS:
        for a in ALPHAS:
            scores = (x @ text.T).numpy() + a * np.exp(-b * (1 - (x @ keys.T).numpy())) @ one_hot
            right = float((scores.argmax(1) == labels.numpy()).mean())
            if right > best:
                best, wanted = right, (a, b)
    assert (alpha, beta) == wanted


def test_tip_adapter_f_first_step_in_closed_form() -> None:
    """AdamW's first step divides the gradient by its own size; the gradient is worked out in numpy."""
    x, y, text = units(6, 5), torch.tensor([0, 0, 1, 1, 2, 2]), 3 * units(3, 5)
    trained = train_keys(x, x[:, None], y, text, epochs=1).numpy()
    rows, votes = x.numpy(), np.exp(x.numpy() @ x.numpy().T - 1)  # (images, keys)
    one_hot = np.eye(3)[y]
    error = softmax(rows @ text.numpy().T + 1.17 * votes @ one_hot, axis=1) - one_hot
    gradient = 1.17 * (error[:, y] * votes).T @ rows / 6
    wanted = rows * (1 - 1e-3 * 0.01) - 1e-3 * gradient / (np.abs(gradient) + 1e-4)
    np.testing.assert_allclose(trained, wanted, atol=1e-12)


def test_cross_modal_loss_and_gradient_agree_with_scipy() -> None:
    heads, x, y = torch.randn(2, 3, 4, dtype=torch.float64), units(10, 4), torch.arange(10) % 3

    def slow(flat: np.ndarray) -> float:
        logits = 5 * x.numpy() @ flat.reshape(3, 4).T
        return float(-log_softmax(logits, axis=1)[np.arange(10), y].mean())

    leaf = heads.clone().requires_grad_()
    losses = cross_modal_loss(leaf, x, y, 5.0)
    losses.sum().backward()
    assert leaf.grad is not None
    for index in range(2):
        flat = heads[index].flatten().numpy()
        np.testing.assert_allclose(losses[index].item(), slow(flat), rtol=1e-10)
        np.testing.assert_allclose(leaf.grad[index].flatten(), approx_fprime(flat, slow), atol=1e-5)


def test_heads_side_by_side_step_as_pytorchs_adamw() -> None:
    heads = torch.randn(2, 3, 4, dtype=torch.float64)
    rates, decays = torch.tensor([[[1e-2]], [[1e-3]]]).double(), torch.tensor([[[0.0]], [[0.5]]]).double()
    theirs = [torch.nn.Parameter(head.clone()) for head in heads]
    optimizer = torch.optim.AdamW(
        [{"params": [theirs[i]], "lr": rates[i].item(), "weight_decay": decays[i].item()} for i in range(2)]
    )
    ours = AdamW(heads, rates, decays)
    for _ in range(7):
        gradient = torch.randn_like(heads)
        for parameter, value in zip(theirs, gradient, strict=True):
            parameter.grad = value.clone()
        optimizer.step()
        ours.step(gradient, 1.0)
    torch.testing.assert_close(heads, torch.stack([value.detach() for value in theirs]))


def test_lp_rates_and_start_are_the_papers() -> None:
    x, y, text = units(12, 5), torch.arange(12) % 3, units(3, 5)
    blend = first_blend(x, y, text)
    rows = x.numpy()
    np.testing.assert_allclose(blend.head_rate, 4 * 12 / np.linalg.eigvalsh(rows.T @ rows).max())
    np.testing.assert_allclose(blend.alpha_rate, 12 / (4 * max(((rows @ t) ** 2).sum() for t in text.numpy())))
    np.testing.assert_allclose(blend.head[1], rows[y.numpy() == 1].sum(0))
    cosines = [(rows[y.numpy() == k] @ text[k].numpy()).mean() for k in range(3)]
    np.testing.assert_allclose(blend.alpha, [250 * np.mean(cosines)] * 3)


@pytest.mark.parametrize(("rows", "dim"), [(12, 5), (5, 12), (7, 7), (1, 4)])
def test_lp_rate_is_the_same_by_rows_or_by_columns(rows: int, dim: int) -> None:
    x = units(rows, dim)
    blend = first_blend(x, torch.arange(rows) % 3, units(3, dim))
    np.testing.assert_allclose(blend.head_rate, 4 * rows / np.linalg.norm(x.numpy(), 2) ** 2)


@pytest.mark.parametrize("val_rows", [0, 30])
def test_lp_keeps_the_epoch_that_reading_every_one_would(val_rows: int) -> None:
    """The choice without reading the number of hits, against one that reads it; the last of equals is kept."""
    text, epochs = units(3, 4), 80
    y, y_val = torch.randint(0, 3, (60,)), torch.randint(0, 3, (val_rows,))
    x_val = torch.randn(val_rows, 4, dtype=torch.float64)
    rows = TaskRows(num_classes=3, x=units(60, 4)[:, None], y=y, x_val=x_val, y_val=y_val, text=text)
    x, _ = rows.all_views()
    blend, momentum = first_blend(x, y, text), (torch.zeros(3, 4).double(), torch.zeros(3).double())
    found = []
    for epoch in range(1, epochs + 1):
        blend_step(blend, x, y, text, momentum, epoch % 10 == 0)
        weights, bias = blend.weights(text), blend.bias.clone()
        hits = int(((rows.units_val @ weights.T + bias).argmax(dim=-1) == y_val).sum())
        found.append((hits, epoch, weights, bias))
    _, epoch, weights, bias = max(found, key=lambda one: one[:2])
    assert (epoch < epochs) == (val_rows > 0)
    learned = LPPlusPlus(epochs=epochs).learn(rows)
    assert torch.equal(learned.classifier.weights, weights) and torch.equal(learned.classifier.bias, bias)
    assert learned.choices == ({"epoch": epoch} if val_rows else {})


def test_lp_first_step_is_down_the_numeric_gradient() -> None:
    x, y, text = units(12, 5), torch.arange(12) % 3, units(3, 5)
    blend = replace(first_blend(x, y, text), bias=torch.randn(3).double(), alpha=torch.randn(3).double())
    start = np.concatenate([blend.head.flatten(), blend.bias, blend.alpha])

    def slow(flat: np.ndarray) -> float:
        head, bias, alpha = flat[:15].reshape(3, 5), flat[15:18], flat[18:]
        logits = x.numpy() @ (head + alpha[:, None] * text.numpy()).T + bias
        return float(-log_softmax(logits, axis=1)[np.arange(12), y].mean())

    gradient = approx_fprime(start, slow)
    blend_step(blend, x, y, text, (torch.zeros(3, 5).double(), torch.zeros(3).double()), True)
    after = np.concatenate([blend.head.flatten(), blend.bias, blend.alpha])
    rates = np.repeat([blend.head_rate, blend.alpha_rate], [18, 3])
    np.testing.assert_allclose(after, start - rates * gradient, atol=1e-5)


def test_lp_ends_where_scipy_does() -> None:
    """On labels that no line separates, the loss has one least value; at half the rate both blocks go down to it.

    The published rate is the largest that is stable without momentum and bias, and swings on such labels.
    """
    x, text = units(60, 4), units(3, 4)
    y = torch.randint(0, 3, (60,))
    blend = first_blend(x, y, text)
    blend.head_rate /= 2
    momentum = (torch.zeros(3, 4).double(), torch.zeros(3).double())
    for epoch in range(1, 1001):
        blend_step(blend, x, y, text, momentum, epoch % 10 == 0)
    loss = F.cross_entropy(x @ blend.weights(text).T + blend.bias, y)

    def slow(flat: np.ndarray) -> float:
        logits = x.numpy() @ flat[:12].reshape(3, 4).T + flat[12:]
        return float(-log_softmax(logits, axis=1)[np.arange(60), y].mean())

    # Head and alpha together reach no more than a head alone does.
    np.testing.assert_allclose(loss, minimize(slow, np.zeros(15)).fun, rtol=1e-5)
