"""What goes behind an image tower in an ONNX graph scores as the classifier does, and can be traced."""

from __future__ import annotations

import pytest
import torch
from classifier_cases import CASES, draw_features, make_ape, make_classifier, make_tip_x
from torch import nn

from cptlite.classifiers import Classifier, JoinedClassifier
from cptlite.runs.onnx_model import HEADS, _Scores, has_graph

WITH_GRAPH = ("linear", "linear64", "tip", "tip64", "x-tip", "ape", "two-headed", "one class", "joined")


def test_which_have_a_graph() -> None:
    assert [case for case in CASES if has_graph(make_classifier(case))] == list(WITH_GRAPH)
    assert {type(make_classifier(case)) for case in WITH_GRAPH} == {*HEADS, JoinedClassifier}


def of_tasks() -> Classifier:
    return JoinedClassifier(parts=(make_tip_x(3), make_ape(2)), sizes=(3, 2))


@pytest.mark.parametrize("case", [*WITH_GRAPH, "of tasks"])
def test_heads_score_as_the_classifier(case: str) -> None:
    classifier = of_tasks() if case == "of tasks" else make_classifier(case)
    features = draw_features(case)
    wanted = classifier.scores(features).float()
    found = _Scores(nn.Identity(), classifier)(features)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_heads_are_traced_for_any_number_of_images() -> None:
    classifier, batch = of_tasks(), {0: torch.export.Dim("batch")}
    model = _Scores(nn.Identity(), classifier).eval()
    traced = torch.export.export(model, (draw_features("x"),), dynamic_shapes=(batch,))
    features = draw_features("x", 9)
    torch.testing.assert_close(traced.module()(features), classifier.scores(features), rtol=1e-4, atol=1e-4)
