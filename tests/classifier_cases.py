"""One small classifier of every kind, and stored files made by hand."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cptlite.classifiers import (
    APEClassifier,
    BackboneFacts,
    Classifier,
    ImageConditionedClassifier,
    JoinedClassifier,
    LinearClassifier,
    PreProjectedClassifier,
    ProjectedClassifier,
    StoredClassifier,
    TipClassifier,
    TipXClassifier,
    Transport,
    TransportClassifier,
    TwoHeadedClassifier,
    TwoPrototypeClassifier,
)

DIM, WIDTH, PLACES = 32, 128, 3  # the first two are those of the recordings' CLIP
NAMES = ["fig", "crème\nbrûlée", "sour plum", "貓\x1b[31m"]
SCALE = math.log(100) + 1e-15  # more digits than float32 has
POOLED = (
    *("linear", "linear64", "tip", "tip64", "x-tip", "ape", "two-prototypes", "projected", "pre-projected"),
    *("image-conditioned", "two-headed", "one class", "joined", "mixed"),
)
CASES = (*POOLED, "transport")
FACTS = BackboneFacts(
    name="random:ViT-B/32",
    weights_sha256="0" * 64,
    precision="float32",
    embed_dim=DIM,
    preprocess={"resize": 32, "mean": [0.1, 1 / 3], "crop": "center"},
)


def make_linear(num_classes: int, dtype: torch.dtype = torch.float32) -> LinearClassifier:
    bias = torch.randn(num_classes, dtype=dtype)
    bias[-1] = -math.inf
    return LinearClassifier(
        weights=torch.randn(num_classes, DIM, dtype=dtype), bias=bias, logit_scale=SCALE, unit_length=False
    )


def make_tip(num_classes: int, dtype: torch.dtype = torch.float32) -> TipClassifier:
    units = F.normalize(torch.randn(num_classes + 3 * num_classes, DIM, dtype=dtype), dim=-1)
    return TipClassifier(
        weights=units[:num_classes],
        logit_scale=SCALE,
        keys=units[num_classes:],
        key_labels=torch.arange(3 * num_classes) % num_classes,
        alpha=torch.full((1,), 1.17, dtype=dtype).expand(num_classes),  # one memory for all
        beta=torch.rand(num_classes, dtype=dtype) + 1,
    )


def make_tip_x(num_classes: int) -> TipXClassifier:
    tip = make_tip(num_classes)
    values = {"temperature": 0.5, "alpha": 3.2, "beta": 1.1, "gamma": 2.5, "slope": 7 / 3, "offset": 0.1}
    return TipXClassifier(weights=tip.weights, keys=tip.keys, key_labels=tip.key_labels, logit_scale=SCALE, **values)


def make_ape(num_classes: int) -> APEClassifier:
    tip = make_tip(num_classes)
    channels = torch.randperm(DIM)[: DIM // 2]
    return APEClassifier(
        weights=tip.weights,
        keys=tip.keys[:, channels],
        key_labels=tip.key_labels,
        key_weights=torch.rand(len(tip.keys)),
        channels=channels,
        logit_scale=SCALE,
        alpha=3.2,
        beta=1.1,
    )


def make_conditioned(names: list[str]) -> ImageConditionedClassifier:
    return ImageConditionedClassifier(
        context=torch.randn(1, 4, WIDTH) * 0.02,
        hidden_weight=torch.randn(2, DIM),
        hidden_bias=torch.randn(2),
        shift_weight=torch.randn(WIDTH, 2) * 0.1,
        shift_bias=torch.randn(WIDTH) * 0.1,
        encode=text_encoder("fused").prompts(names, context_length=4, position="middle"),
        logit_scale=SCALE,
        position="middle",
        num_classes=len(names),
    )


def make_classifier(case: str) -> Classifier:
    """Return one of `CASES`, of the classes `NAMES`, or the first of them."""
    count = len(NAMES)
    if case.startswith("linear"):
        return make_linear(count, torch.float64 if case.endswith("64") else torch.float32)
    if case.startswith("tip"):
        return make_tip(count, torch.float64 if case.endswith("64") else torch.float32)
    if case == "x-tip":
        return make_tip_x(count)
    if case == "ape":
        return make_ape(count)
    if case == "two-prototypes":
        text, images = F.normalize(torch.randn(2, count, DIM), dim=-1)
        return TwoPrototypeClassifier(weights=text, prototypes=images, alpha=0.3 + 1e-15, beta=5.5)
    if case == "projected":
        text, matrix = F.normalize(torch.randn(count, DIM), dim=-1), torch.eye(DIM) + 0.1 * torch.randn(DIM, DIM)
        return ProjectedClassifier(weights=text, matrix=matrix, logit_scale=SCALE)
    if case == "pre-projected":
        text, matrix = F.normalize(torch.randn(count, DIM), dim=-1), torch.randn(DIM + 5, DIM)
        return PreProjectedClassifier(weights=text, matrix=matrix, bias=torch.randn(DIM), logit_scale=SCALE)
    if case == "image-conditioned":
        return make_conditioned(NAMES)
    if case == "two-headed":
        return TwoHeadedClassifier(
            weights=F.normalize(torch.randn(count, DIM), dim=-1),
            linear_weights=torch.randn(count, DIM),
            bias=torch.randn(count),
            logit_scale=SCALE,
            linear_share=0.7,
        )
    if case == "transport":
        return TransportClassifier(
            prompts=F.normalize(torch.randn(count, 2, DIM), dim=-1),
            transport=Transport(eps=0.1 + 1e-12, iterations=7, threshold=1e-3),
            logit_scale=SCALE,
        )
    if case == "one class":
        return make_linear(1)
    if case == "joined":
        return JoinedClassifier(parts=(make_linear(1), make_linear(3)), sizes=(1, 3))
    assert case == "mixed"
    parts = (make_tip(1), make_conditioned(NAMES[1:3]), make_linear(1))
    return JoinedClassifier(parts=parts, sizes=(1, 2, 1))


def draw_features(case: str, count: int = 5) -> Tensor:
    """Raw features such as a case scores."""
    if case == "pre-projected":
        return torch.randn(count, DIM + 5)
    return torch.randn(count, PLACES, DIM) if case == "transport" else torch.randn(count, DIM)


def make_stored(case: str) -> StoredClassifier:
    """Return one of `CASES` with two tasks, or one of one class."""
    tasks = [make_task("fruit\t", NAMES[:1], "a {}, \N{SNOWMAN}")]
    if case != "one class":
        tasks.append(make_task("other/thing", NAMES[1:]))
    return StoredClassifier(classifier=make_classifier(case), tasks=tuple(tasks), backbone=FACTS)


def take_apart(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a stored file."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["cptlite"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def put_together(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file whose checksum is right, whatever is in it; worked out as the format says, not by its writer."""
    rest = {name: value for name, value in header.items() if name != "sha256"}
    content = json.dumps(rest, sort_keys=True).encode()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        content += f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        content += bytes(tensor.view(-1).view(torch.uint8).tolist())
    text = json.dumps({**rest, "sha256": hashlib.sha256(content).hexdigest()})
    save_file(dict(tensors), path, metadata={"cptlite": text})
