"""Scores of a range of classes are those columns of the scores of all, whatever the kind."""

from __future__ import annotations

import pytest
import torch
from classifier_cases import CASES, NAMES, draw_features, make_classifier

from cptlite.classifiers import ALL, LinearClassifier, TipClassifier, TwoHeadedClassifier, votes

RANGES = [slice(start, stop) for start in range(len(NAMES)) for stop in range(start + 1, len(NAMES) + 1)]


@pytest.mark.parametrize("case", CASES)
def test_a_range_has_the_columns_of_all(case: str) -> None:
    classifier, features = make_classifier(case), draw_features(case)
    whole = classifier.scores(features, ALL)
    count = 1 if case == "one class" else len(NAMES)
    assert whole.shape == (len(features), count)
    assert torch.equal(classifier.scores(features), whole)
    for classes in RANGES:
        if classes.stop <= count:
            torch.testing.assert_close(classifier.scores(features, classes), whole[:, classes], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_no_images_have_no_scores(case: str) -> None:
    classifier = make_classifier(case)
    assert classifier.scores(draw_features(case, 0), slice(0, 1)).shape == (0, 1)


def test_votes_by_a_loop() -> None:
    affinity, labels = torch.rand(3, 6), torch.tensor([0, 2, 2, 0, 3, 2])
    wanted = torch.zeros(3, 4)
    for image in range(3):
        for key, label in enumerate(labels.tolist()):
            wanted[image, label] += torch.exp(-2.5 * (1 - affinity[image, key]))
    torch.testing.assert_close(votes(affinity, labels, 2.5, 4), wanted)


@pytest.mark.parametrize("kind", [LinearClassifier, TipClassifier, TwoHeadedClassifier])
def test_parts_join_to_one_of_all_their_classes(kind: type) -> None:
    case = kind.kind
    parts = [make_classifier(case) for _ in range(3)]
    joined, features = kind.join(parts), draw_features(case)
    wanted = torch.cat([part.scores(features) for part in parts], dim=-1)
    torch.testing.assert_close(joined.scores(features), wanted, rtol=1e-5, atol=1e-4)
