"""Predictions of image files: those that the run made of its cached test rows, whatever the method; bounded memory."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_bench import DATASETS, RunBench, least, results_of

import cptlite
from cptlite.backbones import Backbone, load_backbone, load_image_tower
from cptlite.backbones.images import EncodedPixels
from cptlite.cache import FeatureCache
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.methods.table import METHODS
from cptlite.runs.image_features import ImageReading, encode_images
from cptlite.runs.load import check_backbone
from cptlite.runs.predict import predict_cached, predict_images
from cptlite.runs.reuse import Reusable, read_reusable

CPU = torch.device("cpu")


def images_of(caches: Path, cache: FeatureCache) -> list[str]:
    """Files of a cached dataset's test rows."""
    return [str(caches.parent / cache.fingerprint.dataset / path) for path in cache.paths("test")]


def recorded(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def best_of(found: Reusable, backbone: Backbone, task: str, images: list[str]) -> list[tuple[str, float]]:
    reading = ImageReading.of_run(found.stored, found.results, workers=0)
    assert reading.dtype == "float16", "as the caches have it"
    said = predict_images(backbone, found.choices([task]), images, top=2, reading=reading)
    return [prediction.tasks[task][0] for prediction in said]


@pytest.mark.parametrize("method", METHODS)
def test_files_are_predicted_as_their_cached_rows_were(
    bench: RunBench, caches: Path, opened: list[FeatureCache], method: str
) -> None:
    folder = bench.train("runs", least(method))
    found, results = read_reusable(folder, device=CPU), results_of(folder)
    for cache in opened:
        task = cache.tasks[0].id
        rows = [row for row in recorded(folder) if row["task"] == task]
        best = best_of(found, bench.backbone, task, images_of(caches, cache))
        assert [name for name, _ in best] == [row["predicted"] for row in rows]
        assert [value for _, value in best] == pytest.approx([float(row["probability"]) for row in rows], abs=2e-4)
        right = [name == row["label"] for (name, _), row in zip(best, rows, strict=True)]
        assert np.mean(right) == results["tasks"][task]["acc1"]


@pytest.mark.parametrize("method", ["coop-mt", "plot"])
def test_cached_rows_are_predicted_with_their_labels(bench: RunBench, opened: list[FeatureCache], method: str) -> None:
    folder = bench.train("runs", least(method))
    found = read_reusable(folder, device=CPU)
    said = [
        (prediction.image, prediction.label, prediction.tasks)
        for cache in opened
        for prediction in predict_cached(cache, "test", found.choices([]), top=9, patches=method == "plot", device=CPU)
    ]
    rows = recorded(folder)
    assert [(image, label) for image, label, _ in said] == [(row["image"], (row["task"], row["label"])) for row in rows]
    for (_, _, tasks), row in zip(said, rows, strict=True):
        assert set(tasks) == set(DATASETS), "each task is asked"
        ranked = tasks[row["task"]]
        assert ranked[0][0] == row["predicted"] and f"{ranked[0][1]:.4f}" == row["probability"]
        assert [name for name, _ in ranked].index(row["label"]) + 1 == int(row["rank"])
        assert sum(value for _, value in ranked) == pytest.approx(1)


# Which towers are loaded


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Name and options of every loading of a backbone."""
    found: list[tuple[str, dict[str, str]]] = []
    for loader in (load_backbone, load_image_tower):

        def load(name: str, loader: Callable[..., Backbone] = loader, **options: str) -> Backbone:
            found.append((loader.__name__, options))
            return loader(name, **options)

        monkeypatch.setattr(f"cptlite.runs.load.{loader.__name__}", load)
    return found


def test_the_text_tower_is_loaded_where_prompts_are_encoded_alone(
    bench: RunBench, caches: Path, opened: list[FeatureCache], loads: list[tuple[str, dict[str, str]]]
) -> None:
    images = images_of(caches, opened[0])
    softcpt = cptlite.load_run(bench.train("runs", least("softcpt")))
    softcpt.predict(images, "coins")
    softcpt.predict(images, "coins")
    how = {"device": "cpu", "precision": "float32", "linear_backend": "auto"}
    assert loads == [("load_image_tower", how)], "once"
    backbone = softcpt._image_backbone()
    kept = {name.split(".")[0] for name, _ in backbone.model.named_parameters()}
    assert kept == {"visual", "text_projection", "logit_scale"}
    with pytest.raises(AssertionError, match="without its text tower"):
        _ = backbone.text_tower
    del loads[:]
    cocoop = cptlite.load_run(bench.train("runs", least("cocoop")))
    cocoop.predict(images, "coins")
    assert loads == [("load_backbone", how)], "once, for prompts and images"


def test_a_backbone_without_its_text_tower_has_the_same_image_features(backbone: Backbone) -> None:
    alone = load_image_tower(backbone.name, device="cpu")
    assert alone.weights_sha256 == backbone.weights_sha256 and alone.embed_dim == backbone.embed_dim
    images = torch.randn(2, 3, backbone.resolution, backbone.resolution)
    assert torch.equal(alone.encode_images(images), backbone.encode_images(images))


def test_another_backbone_or_preprocessing_is_refused(
    bench: RunBench, caches: Path, opened: list[FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cptlite.load_run(bench.train("runs", least("coop-mt")))
    facts = run.backbone_
    with pytest.raises(DataError, match=r"wanted images prepared as .* \(resize 1\), got resize \d+ of backbone"):
        check_backbone(bench.backbone, replace(facts, preprocess={**facts.preprocess, "resize": 1}))
    with pytest.raises(DataError, match="wanted images prepared as .* got crop center"):
        check_backbone(
            bench.backbone, replace(facts, preprocess={k: v for k, v in facts.preprocess.items() if k != "crop"})
        )
    monkeypatch.setattr(
        "cptlite.runs.load.load_image_tower", lambda name, **options: load_image_tower("random:demo:1", **options)
    )
    with pytest.raises(DataError, match="got others .*put those back"):
        run.predict(images_of(caches, opened[0]), "coins")


# From Python


def test_a_run_predicts_paths_and_pillow_s_images(bench: RunBench, caches: Path, opened: list[FeatureCache]) -> None:
    folder = bench.train("runs", least("softcpt"))
    run, cache = cptlite.load_run(folder), opened[1]
    paths = images_of(caches, cache)
    wanted = [row["predicted"] for row in recorded(folder) if row["task"] == "leaves"]
    assert run.predict(paths, "leaves").tolist() == wanted
    assert run.predict([Path(path) for path in paths], "leaves").tolist() == wanted
    opened_images: list[Any] = [Image.open(path) for path in paths]
    assert run.predict(opened_images, "leaves").tolist() == wanted
    assert run.predict(paths[0], "leaves").tolist() == wanted[:1]
    assert run.predict(Path(paths[0]))["leaves"].tolist() == wanted[:1]
    assert set(run.predict(paths[0])) == set(DATASETS), "without a task, all of them"
    probabilities = run.predict_proba(opened_images[0].convert("L"), "leaves")
    assert probabilities.shape == (1, 3) and probabilities.sum() == pytest.approx(1)
    assert run.scores(paths).shape == (len(paths), 7)
    features = cache.features("test", views=0)[:, 0].astype(np.float32)
    assert np.abs(run.scores(paths, "leaves") - run.scores(features, "leaves")).max() < 0.05
    assert pickle.loads(pickle.dumps(run)).predict(paths, "leaves").tolist() == wanted


def test_a_fitted_model_predicts_images_by_its_own_backbone(
    backbone: Backbone, caches: Path, opened: list[FeatureCache]
) -> None:
    model = cptlite.FewShotClassifier("linear-probe", backbone, shots=2).fit(opened)
    assert model.predict(images_of(caches, opened[0])[0], "coins")[0] in DATASETS["coins"]
    model.set_params(backbone=load_backbone("random:demo:1", device="cpu"))
    with pytest.raises(DataError, match="put those back"):
        model.predict(images_of(caches, opened[0]), "coins")


def test_an_image_that_cannot_be_read_is_said(bench: RunBench, tmp_path: Path) -> None:
    run = cptlite.load_run(bench.train("runs", least("coop-mt")))
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"wanted an image at .*a\.png, got not an image: leave it out"):
        run.predict(tmp_path / "a.png", "coins")
    with pytest.raises(DataError, match=r"b\.png, got missing"):
        run.predict([str(tmp_path / "b.png")], "coins")
    with pytest.raises(DataError, match="an image in memory, got floating-point numbers"):
        run.predict(Image.new("F", (9, 9)), "coins")


# Memory


@pytest.mark.parametrize(("workers", "ahead"), [(0, 0), (2, 0), (2, 3)])
def test_no_more_images_are_taken_than_batches_are_read_ahead(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, workers: int, ahead: int
) -> None:
    monkeypatch.setattr("cptlite.backbones.images.PREFETCH", {"cpu": ahead})
    monkeypatch.setattr(
        "cptlite.runs.image_features.encode_pixels",
        lambda backbone, pixels, whole, pre: EncodedPixels(torch.ones(len(pixels), 4)),
    )
    image, taken, given = Image.new("RGB", (8, 8)), 0, 0

    def sources() -> Iterator[Image.Image]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield image

    reading, most = ImageReading(batch_size=16, workers=workers), 0
    for batch in encode_images(backbone, sources(), reading):
        most = max(most, taken - given)
        given += len(batch.images)
    assert given == 1000
    assert most <= (ahead + 1) * 16


def test_features_that_are_not_finite_are_refused(
    bench: RunBench, opened: list[FeatureCache], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_reusable(bench.train("runs", least("coop-mt")), device=CPU)
    monkeypatch.setattr(
        "cptlite.runs.image_features.encode_pixels",
        lambda backbone, pixels, whole, pre: EncodedPixels(torch.full((len(pixels), 128), float("nan"))),
    )
    with pytest.raises(CptliteError, match=r"wanted features that are finite and not all 0, got others for the image"):
        best_of(found, bench.backbone, "coins", images_of(caches, opened[0]))


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"workers": -1}])
def test_numbers_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        ImageReading(**given)
