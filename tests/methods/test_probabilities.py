"""Probabilities of the probes: rows that sum to one, in the order of the scores; and what survives pickling."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from cptlite.methods.probes.cross_modal import CrossModal
from cptlite.methods.probes.estimator import FeatureClassifier
from cptlite.methods.probes.linear_probe import LinearProbe
from cptlite.methods.probes.lp_plus_plus import LPPlusPlus
from cptlite.methods.probes.prototype import PrototypeClassifier
from cptlite.methods.probes.tip_adapter import TipAdapter, TipAdapterF


@pytest.mark.parametrize("num_classes", [2, 4])
def test_probabilities_are_the_softmax_of_the_scores(num_classes: int) -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % num_classes
    x = rng.normal(size=(60, 5)) + 2 * np.eye(5)[y]
    text = rng.normal(size=(num_classes, 5))
    estimators = [LinearProbe(C=0.3), PrototypeClassifier(), TipAdapter(text_weights=text, alpha=1, beta=2)]
    estimators += [
        TipAdapterF(text_weights=text, epochs=2),
        CrossModal(text_weights=text, steps=5),
        LPPlusPlus(text_weights=text, epochs=5),
    ]
    for estimator in estimators:
        estimator.fit(x, y)
        scores, shares = estimator.decision_function(x), estimator.predict_proba(x)
        assert shares.shape == (60, num_classes)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
        assert estimator.classes_[shares.argmax(axis=1)].tolist() == estimator.predict(x).tolist()
        if num_classes == 2:  # the score is how far the second is ahead
            assert scores.shape == (60,)
            np.testing.assert_allclose(np.log(shares[:, 1] / shares[:, 0]), scores, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_allclose(shares, softmax(scores, axis=1), rtol=1e-6)
            # Further classes of a row follow in the order of the scores.
            assert np.array_equal(scores.argsort(axis=1), shares.argsort(axis=1))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_probabilities_of_the_linear_probe_are_scikit_learns(num_classes: int) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % num_classes
    ours, theirs = LinearProbe(C=0.3).fit(x, y), LogisticRegression(C=0.3, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=1e-9)


def test_probabilities_come_in_the_order_of_the_classes_given() -> None:
    """One of them without training rows."""
    x, text = np.eye(4), np.eye(4)[:3]
    tip = TipAdapter(text_weights=text, classes=["b", "a", "c"]).fit(x[:2], ["b", "a"])
    assert tip.classes_.tolist() == ["b", "a", "c"]
    assert tip.predict_proba(text).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("estimator", [LinearProbe(C=0.3), PrototypeClassifier(), TipAdapter(alpha=0.5)], ids=repr)
def test_a_fitted_estimator_survives_pickling(estimator: FeatureClassifier) -> None:
    x, y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3
    if estimator.needs_text:
        estimator = clone(estimator).set_params(text_weights=np.eye(4)[:3])
    estimator.fit(x, y)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(x), estimator.predict_proba(x))
