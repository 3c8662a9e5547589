"""Three tiny datasets, and runs on them: what the tests of runs share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trees import draw_classes

from cptlite.backbones import Backbone
from cptlite.cache import CacheFolder
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import StoredClassifier, load_classifier
from cptlite.config import RunConfig, known_options, resolve_config
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.types import Task
from cptlite.datasets.views import ViewConfig
from cptlite.methods.table import find_method
from cptlite.runs.execute import execute_runs
from cptlite.runs.folders import run_folder
from cptlite.text.encoder import TextEncoder

__all__ = [
    "least",
    "BACKBONE",
    "DATASETS",
    "QUICK",
    "RunBench",
    "classifier_of",
    "configure",
    "encode_datasets",
    "make_task",
    "results_of",
]

BACKBONE = "random:demo"
DATASETS = {"coins": ["dime", "penny"], "leaves": ["ash", "elm", "oak"], "shells": ["conch", "whelk"]}
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 2, "steps": 5}
LEAST: dict[str, Any] = {"epochs": 1, "batch_size": 32, "steps": 1}
"""What makes a run short, or one step; given to the methods that have it."""

NEEDED: dict[str, Any] = {"supports": tuple(DATASETS)}
"""What some methods cannot do without: here a support set is the training images."""


def encode_datasets(backbone: Backbone, folder: Path) -> Path:
    """Draw the datasets into a folder and cache them with all kinds of features; the caches' folder."""
    for name, classes in DATASETS.items():
        draw_classes(folder / name, classes, images=8)
        (spec,) = load_catalog().resolve([str(folder / name)])
        kinds = {"patches": True, "pre_projection": True}
        encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig(), **kinds)
    return folder / "cache"


def configure(method: str, *, short: Mapping[str, Any] = QUICK, **given: Any) -> RunConfig:
    """A short run of two shots on all datasets, but for what is given."""
    known = {each.name for _, each in known_options(find_method(method))}
    taken = {name: value for name, value in {**short, **NEEDED}.items() if name in known}
    named = {"method": method, "backbone": BACKBONE, "datasets": tuple(DATASETS), "suite": "shelf", "shots": 2}
    return resolve_config({**named, **taken, **given})


def least(method: str, **given: Any) -> RunConfig:
    """The least that a method can do: one epoch of one step, where it takes any."""
    return configure(method, short=LEAST, **given)


def make_task(name: str, classes: list[str]) -> Task:
    """A task of its own dataset."""
    return Task(id=name, name=name, class_names=tuple(classes), template="a photo of a {}.", metric="acc1")


class RunBench:
    """Trains into folders of its own."""

    def __init__(self, backbone: Backbone, caches: Path, folder: Path) -> None:
        self.backbone, self.caches, self.folder = backbone, caches, folder

    def train(self, out: str, config: RunConfig, on_epoch: Any = None) -> Path:
        """Train one run; its folder."""
        self.train_together(out, [config], on_epoch)
        return run_folder(self.folder / out, config)

    def train_together(
        self, out: str, configs: Sequence[RunConfig], on_epoch: Any = None, on_step: Any = None
    ) -> list[dict[str, Any]]:
        """Train runs as an axis of one forward; their results."""
        with CacheFolder(self.caches) as folder:
            caches = folder.open(self.backbone, configs[0].datasets)
            told = {"on_epoch": on_epoch, "on_step": on_step}
            return execute_runs(configs, self.backbone, caches, out=self.folder / out, **told)

    @property
    def text(self) -> TextEncoder:
        """The backbone's text encoder."""
        return TextEncoder(self.backbone.text_tower, self.backbone.tokenizer)


def results_of(folder: Path) -> dict[str, Any]:
    """What a run's ``results.json`` holds."""
    return json.loads((folder / "results.json").read_text())


def classifier_of(folder: Path, text: TextEncoder | None = None) -> StoredClassifier:
    """Read a run's classifier."""
    return load_classifier(folder / "classifier.safetensors", text=text)
