"""That a GPU computes what the processor does: text features and gradients, features of images, whole trainings.

Axes: T tasks, K classes of all tasks, L context tokens, W text width, D joint dimension, R pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cptlite.backbones import Backbone
from cptlite.timing.ways import CONTEXT_LENGTH, prepare_ways
from cptlite.training.recipe import FULL, RECIPES, Recipe
from cptlite.training.state import TrainingState
from gpu_parts.setting import CASES, Row, Setting, begin, label, learn

__all__ = ["difference", "images", "text", "trainings"]

TEXT_TOLERANCE = 1e-4  # of float32, of the largest value
IMAGES = 32
BACKBONES = ("RN50", "ViT-B/16")
# A training amplifies rounding: of what its learnables moved by.
TRAINED_TOLERANCE = 2e-2
RECIPE = Recipe(**{**RECIPES[FULL], "recipe": FULL, "epochs": 60}).at(16)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def text(setting: Setting) -> Iterator[Row]:
    """Features and gradients of every suite's classes, against the processor in float32."""
    here = setting.backbone(device="cpu", precision="float32")
    for suite in setting.suites:
        setting.tell(f"{suite} on the processor")
        wanted = _step(here, setting.names(suite, here))
        for precision in ("float32", "bf16"):
            setting.tell(f"{suite} in {precision}")
            there = setting.backbone(precision=precision)
            found = _step(there, setting.names(suite, there))
            off = dict(zip(("features", "gradients"), map(difference, found, wanted), strict=True))
            cosine = float(F.cosine_similarity(found[0].cpu(), wanted[0]).min())
            within = None if precision == "bf16" else max(off.values()) <= TEXT_TOLERANCE
            yield {"suite": suite, "precision": precision, **off, "least_cosine": cosine, "within": within}


def _step(backbone: Backbone, names: Mapping[str, list[str]]) -> tuple[Tensor, Tensor]:
    """Features (K, D) and gradient (T, L, W) of the packed path, as bench takes its steps."""
    (way,) = (way for way in prepare_ways(backbone, backbone, names, 1.0) if way.name == "fused")
    draw = torch.Generator().manual_seed(0)
    contexts = torch.randn(len(names), CONTEXT_LENGTH, backbone.text_tower.width, generator=draw) * 0.02
    weights = torch.randn(sum(map(len, names.values())), backbone.embed_dim, generator=draw)
    way.run_step(contexts.to(backbone.device), weights.to(backbone.device))
    assert way.result is not None
    return way.result


def images(setting: Setting) -> Iterator[Row]:
    """Features of random pixels by both kinds of image tower, against the processor in float32."""
    for name in BACKBONES:
        setting.tell(f"{name} on the processor")
        here = setting.backbone(name, device="cpu", precision="float32")
        side, draw = here.resolution, torch.Generator().manual_seed(0)
        pixels = torch.randn(2 if setting.small else IMAGES, 3, side, side, generator=draw)
        wanted = here.encode_images(pixels)
        for precision in ("float32", "bf16"):
            setting.tell(f"{name} in {precision}")
            found = setting.backbone(name, precision=precision).encode_images(pixels).cpu()
            cosine = float(F.cosine_similarity(found, wanted).min())
            yield {
                "backbone": name,
                "precision": precision,
                "features": difference(found, wanted),
                "least_cosine": cosine,
            }


def trainings(setting: Setting) -> Iterator[Row]:
    """Whole trainings of every method on the demo's sizes in float32, recorded, against the processor."""
    here, there = (setting.backbone("demo", precision="float32", **device) for device in ({"device": "cpu"}, {}))
    recipe = Recipe(**{**vars(RECIPE), "epochs": 2}) if setting.small else RECIPE
    for name, options in CASES:
        setting.tell(label(name, options))
        _, (started,) = begin(here, name, options, recipe)
        (wanted,), (found,) = (learn(backbone, name, options, recipe) for backbone in (here, there))
        yield {"method": label(name, options), "graph": found.graph, **_moves(started, wanted, found)}


def _moves(started: TrainingState, wanted: TrainingState, found: TrainingState) -> Row:
    """How far learnables moved, and how far apart they ended, as a share of that."""
    moved = apart = 0.0
    for key, value in wanted.learnables.items():
        moved = max(moved, float((value - started.learnables[key]).detach().abs().max()))
        apart = max(apart, float((value - found.learnables[key].cpu()).detach().abs().max()))
    share = apart / moved if moved else 0.0
    return {"moved": moved, "apart": share, "within": share <= TRAINED_TOLERANCE}
