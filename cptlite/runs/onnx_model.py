"""From preprocessed pixels to scores as one ONNX graph, compared with what it was made from.

Axes: B images, R pixels a side, K classes of all tasks, N training rows that vote, D joint dimension.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cptlite.backbones import Backbone
from cptlite.classifiers import (
    APEClassifier,
    Classifier,
    JoinedClassifier,
    LinearClassifier,
    TipClassifier,
    TipXClassifier,
    TwoHeadedClassifier,
    class_logs,
    exp32,
)
from cptlite.errors import CptliteError

__all__ = ["TOLERANCE", "has_graph", "pack_onnx"]

TOLERANCE = 1e-4  # of the largest score
CHECKED = (1, 3)  # images of a batch
MAX_BYTES = 2**31 - 2**20  # of one message of protobuf, the form of the file
INPUT, OUTPUT = "images", "scores"


class _Linear(nn.Module):
    """`LinearClassifier.scores` of all its classes: features (B, D) to (B, K)."""

    def __init__(self, classifier: LinearClassifier) -> None:
        super().__init__()
        self.unit_length = classifier.unit_length
        self.weights = nn.Buffer(exp32(classifier.logit_scale) * classifier.weights.float())  # (K, D)
        self.bias = nn.Buffer(classifier.bias.float())  # (K,)

    def forward(self, features: Tensor) -> Tensor:
        return (F.normalize(features, dim=-1) if self.unit_length else features) @ self.weights.T + self.bias


class _Tip(nn.Module):
    """`TipClassifier.scores` of all its classes: features (B, D) to (B, K); those of APE and TIP-X are alike."""

    def __init__(self, classifier: TipClassifier | TipXClassifier | APEClassifier) -> None:
        super().__init__()
        labels, weights = classifier.key_labels, classifier.weights
        self.weights = nn.Buffer(exp32(classifier.logit_scale) * weights.float())  # (K, D)
        self.keys = nn.Buffer(classifier.keys.float())  # (N, D), or (N, Q) of APE
        beta = torch.as_tensor(classifier.beta, device=weights.device).float().expand(len(weights))
        self.sharpness = nn.Buffer(beta[labels].clone())  # (N,)
        alpha = torch.as_tensor(classifier.alpha, device=weights.device).float()
        self.votes = nn.Buffer(F.one_hot(labels, len(weights)).float() * alpha)  # (N, K)

    def forward(self, features: Tensor) -> Tensor:
        units = F.normalize(features, dim=-1)  # (B, D)
        affinity = self.compared(units) @ self.keys.T  # (B, N)
        return units @ self.weights.T + (self.sharpness * (affinity - 1)).exp() @ self.votes

    def compared(self, units: Tensor) -> Tensor:
        """Take of the images what is compared with the keys."""
        return units


class _APE(_Tip):
    """`APEClassifier.scores` of all its classes."""

    def __init__(self, classifier: APEClassifier) -> None:
        super().__init__(classifier)
        self.votes = nn.Buffer(classifier.key_weights.float()[:, None] * self.votes)
        self.channels = nn.Buffer(classifier.channels)  # (Q,)

    def compared(self, units: Tensor) -> Tensor:
        return F.normalize(units[:, self.channels], dim=-1)


class _TipX(_Tip):
    """`TipXClassifier.scores` of all its classes."""

    def __init__(self, classifier: TipXClassifier) -> None:
        super().__init__(classifier)
        weights, count = classifier.weights.float(), len(classifier.weights)
        self.text = nn.Buffer(weights / classifier.temperature)  # (K, D)
        key_logs = class_logs(classifier.keys.float(), weights, classifier.temperature)  # (N, K)
        self.totals = nn.Buffer(torch.zeros(count, count).to(weights).index_add(0, classifier.key_labels, key_logs))
        self.counts = nn.Buffer(torch.bincount(classifier.key_labels, minlength=count).float())  # (K,)
        self.log_count, self.gamma = math.log(count), classifier.gamma
        self.slope, self.offset = classifier.slope, classifier.offset

    def forward(self, features: Tensor) -> Tensor:
        logs = (F.normalize(features, dim=-1) @ self.text.T).log_softmax(dim=-1) + self.log_count  # (B, K)
        p = logs.softmax(dim=-1)
        apart = (p * logs).sum(dim=-1, keepdim=True) * self.counts - p @ self.totals.T  # (B, K)
        return super().forward(features) - self.gamma * (self.slope * apart + self.offset * self.counts)


class _TwoHeaded(nn.Module):
    """`TwoHeadedClassifier.scores` of all its classes: features (B, D) to (B, K)."""

    def __init__(self, classifier: TwoHeadedClassifier) -> None:
        super().__init__()
        share = classifier.linear_share
        self.weights = nn.Buffer((1 - share) * exp32(classifier.logit_scale) * classifier.weights)  # (K, D)
        self.linear_weights = nn.Buffer(share * classifier.linear_weights)  # (K, D)
        self.bias = nn.Buffer(share * classifier.bias)  # (K,)

    def forward(self, features: Tensor) -> Tensor:
        linear = features @ self.linear_weights.T + self.bias
        return F.normalize(features, dim=-1) @ self.weights.T + linear


HEADS: dict[type, type[nn.Module]] = {
    LinearClassifier: _Linear,
    TipClassifier: _Tip,
    TipXClassifier: _TipX,
    APEClassifier: _APE,
    TwoHeadedClassifier: _TwoHeaded,
}


class _Scores(nn.Module):
    """A classifier of all tasks, or one a task, behind an image tower: (B, 3, R, R) to (B, K)."""

    def __init__(self, visual: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        parts = classifier.parts if isinstance(classifier, JoinedClassifier) else (classifier,)
        self.visual, self.heads = visual, nn.ModuleList(HEADS[type(part)](part) for part in parts)

    def forward(self, images: Tensor) -> Tensor:
        features = self.visual(images)  # (B, D)
        return torch.cat([head(features) for head in self.heads], dim=-1)


def has_graph(classifier: Classifier) -> bool:
    """Whether `pack_onnx` can make a graph of a classifier."""
    parts = classifier.parts if isinstance(classifier, JoinedClassifier) else (classifier,)
    return all(type(part) in HEADS for part in parts)


def pack_onnx(classifier: Classifier, backbone: Backbone, facts: Mapping[str, Any]) -> tuple[bytes, float]:
    """Make the content of an ONNX file whose batch is of any size, and compare its scores with the classifier's.

    Parameters
    ----------
    classifier : Classifier
        Such that `has_graph`.
    backbone : Backbone
        Whose features it scores, on the CPU in float32.
    facts : mapping
        Written beside the graph, as JSON under ``cptlite``.

    Returns
    -------
    content : bytes
    difference : float
        The largest between scores of ONNX Runtime and of the classifier, as a share of the largest score.

    Raises
    ------
    CptliteError
        A package is not installed, the graph is too large for one file, or its scores are others.
    """
    visual = backbone.model.visual
    size = sum(value.nbytes for value in visual.state_dict().values())
    if size > MAX_BYTES:
        raise CptliteError(
            f"wanted an image tower of at most {MAX_BYTES / 2**30:.1f} GiB, which is what one ONNX file holds, got "
            f"{size / 2**30:.1f}: give --format safetensors and load the tower with clip or open_clip"
        )
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (what the exporter takes)
    except ImportError as error:
        raise CptliteError(
            f"--format onnx needs the packages onnx, onnxruntime and onnxscript, and {error.name} is not installed. "
            f"Install them with: pip install 'cptlite[onnx]'"
        ) from None
    model = _Scores(visual, classifier)
    content = _export(model.eval(), backbone.resolution, facts)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, _compare(session, classifier, backbone)


def _export(model: nn.Module, side: int, facts: Mapping[str, Any]) -> bytes:
    """Trace a model and take what is of this machine out of the graph: where each operation stood in which file."""
    example = torch.zeros(2, 3, side, side)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        assert program is not None
        graph = program.model
        for node in graph.graph.all_nodes():
            node.metadata_props.clear()
        graph.metadata_props.clear()
        graph.metadata_props["cptlite"] = json.dumps(facts, sort_keys=True)
        return bytes(program.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own work from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@torch.no_grad()
def _compare(session: Any, classifier: Classifier, backbone: Backbone) -> float:
    draw, worst = torch.Generator().manual_seed(0), 0.0
    for count in CHECKED:
        images = torch.randn(count, 3, backbone.resolution, backbone.resolution, generator=draw)
        wanted = classifier.scores(backbone.encode_images(images))  # (B, K)
        found = torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
        worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)))
    if not worst <= TOLERANCE:
        raise CptliteError(
            f"wanted scores of the ONNX graph within {TOLERANCE:g} of the classifier's largest, got {worst:.2g}: "
            f"nothing was written; give --format safetensors, and report the versions of torch and onnxscript"
        )
    return worst
