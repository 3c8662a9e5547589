"""Support sets: whose rows vote, how they are numbered, what a run's folder says of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from run_bench import RunBench, encode_datasets, least, results_of
from trees import draw_classes
from typer.testing import CliRunner

from cptlite.backbones import Backbone
from cptlite.cache import open_caches
from cptlite.cache.encode import encode_dataset
from cptlite.cli import app
from cptlite.datasets import load_catalog, read_dataset
from cptlite.datasets.views import ViewConfig
from cptlite.errors import DataError, UsageError
from cptlite.runs.rows import draw_few_shots
from cptlite.runs.support import draw_rows

CPU = torch.device("cpu")


def add(folder: Path, backbone: Backbone, name: str, classes: list[str]) -> None:
    """Draw a dataset beside the others and cache it."""
    draw_classes(folder / name, classes, images=6)
    (spec,) = load_catalog().resolve([str(folder / name)])
    encode_dataset(read_dataset(spec, folder), backbone, folder / "cache", views=ViewConfig())


@pytest.fixture(scope="module")
def shelf(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> RunBench:
    """Three datasets; leaves retrieved, of one class more and in another order; and coins."""
    folder = tmp_path_factory.mktemp("support")
    encode_datasets(backbone, folder)
    add(folder, backbone, "found", ["Oak", "ash", "beech", "ELM"])
    add(folder, backbone, "made", ["penny", "dime"])
    return RunBench(backbone, folder / "cache", folder)


def test_training_rows_are_the_support_sets_numbered_as_the_datasets(shelf: RunBench) -> None:
    caches = open_caches(shelf.caches, shelf.backbone, ["leaves", "coins", "found", "made"])
    config = least("sus-x", datasets=("leaves", "coins"), supports=("made", "found"))
    train, val = draw_rows(config, caches[:2], CPU)
    names = [name.lower() for cache in caches[:2] for name in cache.tasks[0].class_names]
    others = [name.lower() for cache in caches[2:] for name in cache.tasks[0].class_names]
    drawn, _ = draw_few_shots(caches[2:], shots=2, seed=1, device=CPU)
    wanted = {
        (names.index(others[label]), feature.numpy().tobytes())
        for label, feature in zip(drawn.labels.tolist(), drawn.features, strict=True)
        if others[label] in names
    }
    assert {(y, x.numpy().tobytes()) for y, x in zip(train.labels.tolist(), train.features, strict=True)} == wanted
    assert train.labels.bincount().tolist() == [2] * 5
    _, own = draw_few_shots(caches[:2], shots=2, seed=1, device=CPU)
    assert torch.equal(val.features, own.features) and torch.equal(val.labels, own.labels)
    for cache in caches:
        cache.close()


def test_a_run_votes_with_them_and_says_which_they_were(shelf: RunBench) -> None:
    folder = shelf.train("runs", least("sus-x", datasets=("leaves",), supports=("found",)))
    results, config = results_of(folder), json.loads((folder / "config.json").read_text())
    (cache,) = open_caches(shelf.caches, shelf.backbone, ["found"])
    assert results["support"] == config["support"] == {"found": cache.fingerprint.of_pooled()}
    cache.close()
    assert config["config"]["supports"] == ["found"] and results["caches"].keys() == {"leaves"}
    assert results["images_per_class"] == {"leaves": [2, 2, 2]}
    tip_x = shelf.train("runs", least("tip-x", datasets=("leaves",)))
    assert "support" not in results_of(tip_x)
    assert (folder / "classifier.safetensors").read_bytes() != (tip_x / "classifier.safetensors").read_bytes()


def test_a_support_set_of_the_training_images_is_tip_x(shelf: RunBench) -> None:
    given = {"datasets": ("leaves", "coins")}
    folders = [shelf.train("own", least(name, **given)) for name in ("tip-x", "sus-x")]
    first, second = ((folder / "classifier.safetensors").read_bytes() for folder in folders)
    assert first == second


def test_another_support_set_is_another_run(shelf: RunBench, backbone: Backbone, tmp_path: Path) -> None:
    """Its images changed: the finished run is not taken for one of the new ones."""
    encode_datasets(backbone, tmp_path)
    add(tmp_path, backbone, "found", ["oak", "ash", "elm"])
    bench = RunBench(backbone, tmp_path / "cache", tmp_path)
    config = least("sus-x", datasets=("leaves",), supports=("found",))
    bench.train("runs", config)
    bench.caches = shelf.caches
    with pytest.raises(UsageError, match="--force"):
        bench.train("runs", config)


def test_what_cannot_be_is_refused(shelf: RunBench) -> None:
    for supports, kind, words in (
        ((), UsageError, "got none: give --support"),
        (("nowhere",), DataError, "cached as .*nowhere.h5, found no file"),
        (("made",), UsageError, "support set lacks classes of the task"),
    ):
        with pytest.raises(kind, match=words):
            shelf.train("refused", least("sus-x", datasets=("leaves",), supports=supports))


@pytest.mark.slow
def test_the_flag_takes_names_of_cached_datasets(shelf: RunBench, tmp_path: Path) -> None:
    words = ["train", "--method", "sus-x", "--dataset", "leaves", "--support", "found", "--shots", "2"]
    done = CliRunner().invoke(app, [*words, "--cache-dir", str(shelf.caches), "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["results"]
    assert found["support"].keys() == {"found"} and found["method"] == "sus-x"


def test_keys_are_mean_views_of_the_support_set(shelf: RunBench) -> None:
    from cptlite.classifiers import TipXClassifier
    from cptlite.runs.execute import learn_in_memory

    caches = open_caches(shelf.caches, shelf.backbone, ["leaves", "found"])
    config = least("sus-x", datasets=("leaves",), supports=("found",))
    classifier = learn_in_memory(config, shelf.backbone, caches[:1]).classifier
    assert isinstance(classifier, TipXClassifier)
    train, _ = draw_rows(config, caches[:1], CPU)
    wanted = F.normalize(F.normalize(train.features.float(), dim=-1).mean(dim=1), dim=-1)
    torch.testing.assert_close(classifier.keys, wanted)
    for cache in caches:
        cache.close()
