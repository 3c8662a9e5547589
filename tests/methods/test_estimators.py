"""The probes as estimators: scikit-learn's own checks, and that a task fitted alone is the task fitted among others."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from cptlite.errors import UsageError
from cptlite.methods.base import FewShotRows, Learned, Problem
from cptlite.methods.probes.ape import APE
from cptlite.methods.probes.ape_t import APET
from cptlite.methods.probes.clap import CLAP
from cptlite.methods.probes.cross_modal import CrossModal
from cptlite.methods.probes.estimator import FeatureClassifier, Fitted, TaskRows, TextClassifier
from cptlite.methods.probes.linear_probe import LinearProbe
from cptlite.methods.probes.lp_plus_plus import LPPlusPlus
from cptlite.methods.probes.per_task import split_tasks
from cptlite.methods.probes.prolip import ProLIP
from cptlite.methods.probes.proto_clip import ProtoCLIP
from cptlite.methods.probes.prototype import PrototypeClassifier
from cptlite.methods.probes.rla import RLA
from cptlite.methods.probes.tes_heads import TeSHeads
from cptlite.methods.probes.tip_adapter import TipAdapter, TipAdapterF
from cptlite.methods.probes.tip_x import TipX
from cptlite.methods.table import METHODS, find_method
from cptlite.methods.templates import mean_text_features, zero_shot_weights

DIM = 32  # of the recordings' CLIP

# scikit-learn's checks make up (X, y) of many widths and numbers of classes, which no one array of text weights fits.
# These take the class means for text, so that the checks run on everything else: the fit, the scores, the labels.


class MeansForText(TextClassifier):
    """Class means of the plain view in place of text features."""

    def _text(self, rows: TaskRows) -> torch.Tensor:
        members = F.one_hot(rows.y, rows.num_classes).to(rows.x)
        return members.T @ rows.units[:, 0]


class TipOnMeans(MeansForText, TipAdapter):
    pass


class TipFOnMeans(MeansForText, TipAdapterF):
    pass


class TipXOnMeans(MeansForText, TipX):
    pass


class APEOnMeans(MeansForText, APE):
    pass


class APETOnMeans(MeansForText, APET):
    pass


class CrossModalOnMeans(MeansForText, CrossModal):
    pass


class LPOnMeans(MeansForText, LPPlusPlus):
    pass


class CLAPOnMeans(MeansForText, CLAP):
    pass


class ProtoOnMeans(MeansForText, ProtoCLIP):
    pass


class RLAOnMeans(MeansForText, RLA):
    pass


class ProLIPOnMeans(MeansForText, ProLIP):
    pass


class TeSOnMeans(MeansForText, TeSHeads):
    pass


@parametrize_with_checks(
    [
        LinearProbe(),
        PrototypeClassifier(),
        TipOnMeans(),
        TipFOnMeans(epochs=3),
        TipXOnMeans(),
        APEOnMeans(),
        APETOnMeans(epochs=3),
        CrossModalOnMeans(steps=30),
        LPOnMeans(epochs=30),
        CLAPOnMeans(epochs=30),
        ProtoOnMeans(),
        RLAOnMeans(epochs=30),
        ProLIPOnMeans(epochs=30),
        TeSOnMeans(rate=0.1),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", [TipAdapter(), TipAdapterF(), CrossModal(), LPPlusPlus(), CLAP()], ids=repr)
def test_checks_that_need_no_data_hold_without_the_stand_in(estimator: BaseEstimator) -> None:
    assert clone(estimator).get_params() == estimator.get_params()
    assert not vars(clone(estimator)).keys() - estimator.get_params().keys()
    with pytest.raises(UsageError, match=r"wants text_weights of shape \(2, 3\) .* got none"):
        estimator.fit(np.eye(3)[:2], [0, 1])


@pytest.fixture
def problem() -> Problem:
    tasks = (make_task("animal", ["cat", "dog"]), make_task("fruit", ["fig", "kiwi", "plum"], "{} fruit."))
    return Problem(tasks=tasks, text=text_encoder("fused"))


def draw(rows_a_class: int, views: int = 1) -> FewShotRows:
    """Rows around one corner a class."""
    labels = torch.arange(5).repeat(rows_a_class)
    features = 4 * torch.eye(5, DIM)[labels][:, None] + torch.randn(len(labels), views, DIM)
    return FewShotRows(features=features, labels=labels)


TEXTS = ("templates", "descriptions")  # options of the text weights, which an estimator is given

SHORT: dict[str, dict[str, Any]] = {
    "cross-modal": {"steps": 60},
    "zs-lp": {"epochs": 20},
    "clap": {"epochs": 20},
    "rla": {"epochs": 20},
    "prolip": {"epochs": 20},
    "tes-heads": {"epochs": 20},
}
KINDS: dict[str, dict[str, Any]] = {
    name: SHORT.get(name, {})
    for name, entry in METHODS.items()
    if not entry.stepped and issubclass(entry.load(), FeatureClassifier)
}
"""Methods of the table that are estimators, and their options."""


def test_every_fitted_method_but_zero_shot_is_an_estimator() -> None:
    assert {name for name, entry in METHODS.items() if not entry.stepped} == {"zeroshot", *KINDS}
    assert len(KINDS) >= 6


def fit(problem: Problem, name: str, train: FewShotRows, val: FewShotRows, **options: Any) -> Learned:
    """Fit a method of the table on all tasks."""
    entry = find_method(name)
    probe = entry.probe(name, entry.new_options(**options))
    return probe.fit(problem, train, val, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_task_by_itself_is_the_task_among_others(problem: Problem, name: str, views: int) -> None:
    """Through arrays and words for labels, to the same scores and choices as the method of many tasks."""
    train, val, test = draw(6, views), draw(3), torch.randn(9, DIM)
    joint = fit(problem, name, train, val, **KINDS[name])
    torch.manual_seed(3)  # an estimator without random_state draws from PyTorch's own generator
    text = zero_shot_weights(problem)
    for rows, names, classes in zip(
        split_tasks(problem, train, val),
        (["cat", "dog"], ["fig", "kiwi", "plum"]),
        (slice(0, 2), slice(2, 5)),
        strict=True,
    ):
        estimator: FeatureClassifier = find_method(name).load()(**KINDS[name])
        if estimator.needs_text:
            scale = problem.text.tower.logit_scale
            weights = mean_text_features(problem) if estimator.needs_raw_text else 3 * text
            estimator.set_params(text_weights=weights[classes].numpy(), logit_scale=scale)
        words = np.array(names)
        estimator.fit(rows.x.numpy(), words[rows.y], rows.x_val.numpy(), words[rows.y_val])
        scores = joint.classifier.scores(test, classes).numpy()
        own = estimator.decision_function(test.numpy())
        np.testing.assert_allclose(own, scores if len(names) > 2 else scores[:, 1] - scores[:, 0], rtol=1e-3, atol=1e-4)
        assert estimator.predict(test.numpy()).tolist() == words[scores.argmax(1)].tolist()
        np.testing.assert_allclose(estimator.predict_proba(test.numpy()), softmax(scores, axis=1), rtol=1e-3, atol=1e-5)
        assert estimator.choices_ == joint.choices.get(rows.id, {})


@pytest.mark.parametrize("name", KINDS)
def test_learning_keeps_nothing_in_the_estimator(problem: Problem, name: str) -> None:
    """One estimator fits every task, the same each time."""
    estimator: FeatureClassifier = find_method(name).load()(**KINDS[name])
    before = copy.deepcopy(vars(estimator))
    text = zero_shot_weights(problem)
    first, second = split_tasks(problem, draw(4), draw(2), text, mean_text_features(problem))
    found = [estimator.learn(rows, torch.Generator().manual_seed(1)) for rows in (first, second, first)]
    assert all(isinstance(each, Fitted) for each in found)
    assert vars(estimator) == before
    again = found[2].classifier.tensors()
    assert all(torch.equal(value, again[key]) for key, value in found[0].classifier.tensors().items())
    assert found[0].choices == found[2].choices
    assert [len(each.classifier.tensors()["weights"]) for each in found] == [2, 3, 2]


@pytest.mark.parametrize("name", KINDS)
def test_options_are_the_estimators_own_arguments(name: str) -> None:
    """With the same defaults, so that a method of the table is the estimator a user makes."""
    entry = find_method(name)
    params = entry.load()().get_params()
    options = {each.name: each.default for each in entry.list_options() if each.name not in (*TEXTS, "supports")}
    # Of the problem and of the run.
    elsewhere = {"text_weights", "classes", "logit_scale", "random_state", "projection", "projection_bias"}
    assert params.keys() - elsewhere == options.keys()
    assert all(params[key] == value for key, value in options.items())


def test_linear_probe_with_a_given_c_is_scikit_learns() -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    x_val, y_val = x[:9], y[:9]  # not looked at where C is given
    ours, theirs = LinearProbe(C=0.3).fit(x, y, x_val, y_val), LogisticRegression(C=0.3, max_iter=1000).fit(x, y)
    np.testing.assert_array_equal(ours.coef_, theirs.coef_)
    np.testing.assert_array_equal(ours.intercept_, theirs.intercept_)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x))
    assert ours.choices_ == {}


def test_estimators_without_validation_rows_take_what_is_given() -> None:
    x, y, text = np.eye(4), [0, 1, 2, 3], np.eye(4)
    for given, wanted in (({}, (1.17, 1.0)), ({"alpha": 0.5}, (0.5, 1.0)), ({"beta": 3.0}, (1.17, 3.0))):
        tip = TipAdapter(text_weights=text, **given).fit(x, y)
        found = tip.classifier_.tensors()
        np.testing.assert_allclose([found["alpha"][0], found["beta"][0]], wanted)
        assert tip.choices_ == {}
    plain, theirs = LinearProbe().fit(x, y), LogisticRegression(C=1.0, max_iter=1000).fit(x, y)
    np.testing.assert_array_equal(plain.coef_, theirs.coef_)
    assert plain.choices_ == {}


def test_the_best_c_on_validation_rows_beats_a_bad_one() -> None:
    """Each image has a clear feature of large size and noise; the weakest regularisation wins, by the search alone."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    x = 0.01 * np.eye(4, 20)[y] + 0.002 * rng.normal(size=(80, 20))
    searched = LinearProbe().fit(x[:40], y[:40], x[40:], y[40:])
    plain = LinearProbe(C=searched.choices_["C"]).fit(x[:40], y[:40])
    np.testing.assert_array_equal(searched.coef_, plain.coef_)
    assert searched.choices_["C"] > 1


def test_probes_stand_in_pipelines_and_cross_validation() -> None:
    rows = draw(8)
    x, y = rows.features[:, 0].numpy(), rows.labels.numpy()
    for probe in (LinearProbe(), PrototypeClassifier()):
        assert cross_val_score(make_pipeline(Normalizer(), probe), x, y, cv=4).mean() > 0.8


def test_seeded_estimators_leave_the_global_generator_alone() -> None:
    rows, text = draw(4), torch.randn(5, DIM).numpy()
    for kind in (TipAdapterF, APET, partial(CrossModal, steps=20)):
        state = torch.get_rng_state()
        first, second = (
            kind(text_weights=text, random_state=5).fit(rows.features.numpy(), rows.labels.numpy()) for _ in range(2)
        )
        assert torch.equal(torch.get_rng_state(), state)
        x = rows.features[:, 0].numpy()
        np.testing.assert_array_equal(first.decision_function(x), second.decision_function(x))


def test_text_rows_may_name_classes_without_training_rows() -> None:
    text = torch.randn(3, DIM).numpy()
    x = np.concatenate([text[:2], text[:2]])
    tip = TipAdapter(text_weights=text, classes=["b", "a", "c"]).fit(x, ["b", "a", "b", "a"])
    assert tip.predict(text).tolist() == ["b", "a", "c"]


def test_what_does_not_fit_is_refused() -> None:
    x, y = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(UsageError, match="both X_val and y_val"):
        LinearProbe().fit(x, y, x)
    with pytest.raises(UsageError, match="labels among the 2 classes, got .*7"):
        LinearProbe().fit(x, y, x, [0, 1, 0, 7])
    with pytest.raises(UsageError, match=r"shape \(2, 4\) .* got \(3, 4\)"):
        TipAdapter(text_weights=np.ones((3, 4))).fit(x, y)
    with pytest.raises(UsageError, match="at least 2 classes"):
        LinearProbe().fit(x, [1, 1, 1, 1])


def test_a_class_without_rows_is_never_predicted(problem: Problem) -> None:
    train = draw(4)
    kept = train.labels != 3
    train = FewShotRows(features=train.features[kept], labels=train.labels[kept])
    for name in ("prototype", "linear-probe"):
        classifier = fit(problem, name, train, draw(2)).classifier
        assert 1 not in classifier.scores(torch.randn(200, DIM), slice(2, 5)).argmax(-1)
