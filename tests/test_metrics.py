"""Tests of cptlite.metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from cptlite import metrics

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@given(pairs)
def test_metrics_agree_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(rows).T
    present = np.unique(labels)
    recall = recall_score(labels, predictions, labels=present, average="macro", zero_division=0)
    assert metrics.accuracy(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert metrics.mean_per_class_recall(labels, predictions) == pytest.approx(recall)


def test_mean_per_class_recall_weighs_classes_not_rows() -> None:
    labels, predictions = np.array([0, 0, 0, 2]), np.array([0, 0, 0, 1])
    assert metrics.accuracy(labels, predictions) == 0.75
    assert metrics.mean_per_class_recall(labels, predictions) == 0.5


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.mean_per_class_recall])
@pytest.mark.parametrize("shapes", [(0, 0), (3, 2)])
def test_rows_must_pair_up(score, shapes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="same shape"):
        score(np.zeros(shapes[0], dtype=int), np.zeros(shapes[1], dtype=int))


def test_suite_score_is_the_unweighted_mean() -> None:
    assert metrics.suite_score([0.5, 1.0, 0.0]) == 0.5


def test_mean_and_sample_std() -> None:
    mean, std = metrics.mean_and_std([0.1, 0.2, 0.3])
    assert (mean, std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert metrics.mean_and_std([0.7]) == (0.7, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        metrics.mean_and_std([])


def test_confusion_counts_true_against_predicted_classes() -> None:
    found = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 0]), 4)
    assert found.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="same shape"):
        metrics.confusion_matrix(np.array([0]), np.array([0, 1]), 2)


def test_calibration_compares_sureness_with_accuracy() -> None:
    confidence = np.array([0.0, 0.1, 0.5, 0.51, 1.0])
    right = np.array([False, True, True, False, True])
    bins = metrics.calibration_bins(right, confidence, num_bins=2)
    assert [(each.low, each.high, each.rows) for each in bins] == [(0, 0.5, 3), (0.5, 1, 2)]  # an edge is the lower's
    assert [each.confidence for each in bins] == pytest.approx([0.2, 0.755])
    assert [each.accuracy for each in bins] == pytest.approx([2 / 3, 0.5])
    assert metrics.calibration_error(bins) == pytest.approx(3 / 5 * (2 / 3 - 0.2) + 2 / 5 * 0.255)
    sure = metrics.calibration_bins(np.array([True, True]), np.array([1.0, 1.0]))
    assert metrics.calibration_error(sure) == 0 and len(sure) == 15 and sure[0].rows == 0
