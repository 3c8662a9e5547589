"""The pass, whole runs of every method and evaluation, on tensors that claim a GPU: as on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_fakes import make_dataset
from checkpoint_fakes import tiny_clip
from pretended_cuda import DEVICE, PROCESSOR, Pretended, moved
from run_bench import RunBench, classifier_of, encode_datasets, least
from torch._subclasses.fake_tensor import FakeTensorMode

from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import CacheFolder, open_cache
from cptlite.cache.encode import encode_dataset
from cptlite.classifiers import load_classifier
from cptlite.datasets.images import normalise
from cptlite.datasets.types import SPLITS
from cptlite.datasets.views import ViewConfig
from cptlite.methods.table import METHODS
from cptlite.runs.evaluate import evaluate
from cptlite.text.encoder import TextEncoder


@pytest.fixture(scope="module")
def residual() -> Backbone:
    return load_backbone("random:demo", device="cpu", linear_backend="torch")


@pytest.fixture(scope="module")
def towers(residual: Backbone) -> dict[str, Backbone]:
    """A residual network and a vision transformer."""
    model = tiny_clip().eval().requires_grad_(False)
    return {
        "residual": residual,
        "transformer": Backbone(name="tiny", weights_sha256="0" * 64, precision="float32", model=model),
    }


@pytest.fixture(scope="module")
def caches(residual: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_datasets(residual, tmp_path_factory.mktemp("shelf"))


def contents(path: Path) -> Iterator[bytes]:
    with open_cache(path) as cache:
        for split in SPLITS:
            yield cache.features(split).tobytes()
            yield cache.labels(split).tobytes()
            if cache.fingerprint.local:
                yield cache.patches(split).tobytes()


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("tower", ["residual", "transformer"])
def test_the_pass(towers: dict[str, Backbone], cuda: Pretended, tower: str, patches: bool, tmp_path: Path) -> None:
    dataset, backbone = make_dataset(tmp_path / "images", sizes=(7, 2, 3)), towers[tower]
    on_gpu = moved(backbone)
    paths, waits = [], []
    for place, each in {"here": backbone, "there": on_gpu}.items():
        cuda.waits.clear()
        settings = {"batch_size": 4, "part_rows": 8, "views": ViewConfig(views=2), "patches": patches}
        paths.append(encode_dataset(dataset, each, tmp_path / place, **settings).path)
        waits.append(cuda.waits.count("_to_copy from cuda:0 to cpu"))
    assert list(contents(paths[0])) == list(contents(paths[1]))
    batches = 4 + 1 + 1  # of two images with two views, of up to four with one
    assert waits == [0, batches * (1 + patches)]
    images = torch.randn(3, 3, backbone.resolution, backbone.resolution).to(DEVICE)
    with cuda.step():
        on_gpu.encode_images(images)
        on_gpu.encode_with_patches(images, slice(0, 2))


@pytest.mark.parametrize("tower", ["residual", "transformer"])
def test_fake_tensors_go_through_both_towers(towers: dict[str, Backbone], tower: str) -> None:
    """PyTorch's own rules of devices, without numbers."""
    backbone = towers[tower]
    side, spec = backbone.resolution, backbone.preprocess_spec
    with FakeTensorMode(allow_non_fake_inputs=True):
        weights = {
            key: value.new_empty(value.shape, device=DEVICE) for key, value in backbone.model.state_dict().items()
        }
        images = normalise(torch.empty(2, side, side, 3, dtype=torch.uint8, device=DEVICE), spec)
        for place in (DEVICE, "cpu"):
            tokens = torch.zeros(3, 77, dtype=torch.int64, device=place)
            with nullcontext() if place == DEVICE else pytest.raises(RuntimeError, match="device"):
                scores, _ = torch.func.functional_call(backbone.model, weights, (images, tokens))
                assert (scores.device, scores.shape) == (DEVICE, (2, 3))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_whole_run(cuda: Pretended, residual: Backbone, caches: Path, tmp_path: Path, name: str) -> None:
    config, here, there = least(name), RunBench(residual, caches, tmp_path), RunBench(moved(residual), caches, tmp_path)
    folders = [here.train("here", config), there.train("there", config)]
    wanted, found = (classifier_of(folder, here.text).classifier.tensors() for folder in folders)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


@pytest.mark.parametrize("name", ["coop-ca", "plot", "cocoop"])
def test_evaluation_waits_as_often_for_many_rows_as_for_few(
    residual: Backbone, caches: Path, cuda: Pretended, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, bench, on_gpu = least(name), RunBench(residual, caches, tmp_path), moved(residual)
    path = bench.train("here", config) / "classifier.safetensors"
    text = TextEncoder(on_gpu.text_tower, on_gpu.tokenizer)
    classifiers = {rows: load_classifier(path, device=DEVICE, text=text).classifier for rows in (256, 2)}
    found, waits = [], []
    with CacheFolder(caches) as folder:
        opened = folder.open(residual, config.datasets)
        patches = config.entry.needs_patches
        wanted = evaluate(load_classifier(path, text=bench.text).classifier, opened, PROCESSOR, patches=patches)
        for rows, classifier in classifiers.items():
            monkeypatch.setattr("cptlite.runs.evaluate.CHUNK", rows)
            monkeypatch.setattr("cptlite.runs.evaluate.PATCH_CHUNK", rows)
            for _ in range(2):  # prompts of a new number of images are planned at first
                before = len(cuda.waits)
                found.append(evaluate(classifier, opened, DEVICE, patches=patches))
            waits.append(len(cuda.waits) - before)
    assert waits[0] == waits[1]
    for predictions in found:
        for each, other in zip(predictions, wanted, strict=True):
            assert np.array_equal(each.predicted, other.predicted)
