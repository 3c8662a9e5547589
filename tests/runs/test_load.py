"""A finished run read back: the scores of every method come back to the bit, and what is damaged is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_bench import BACKBONE, DATASETS, RunBench, encode_datasets, least, results_of
from safetensors.torch import load_file, save_file

import cptlite
from cptlite.backbones import Backbone, load_backbone
from cptlite.cache import FeatureCache, open_caches
from cptlite.cache.layers import before_projection
from cptlite.classifiers import Classifier
from cptlite.errors import DataError, UsageError
from cptlite.methods.table import METHODS
from cptlite.runs.execute import learn_in_memory


def features_of(opened: list[FeatureCache], patches: bool, pre: bool = False) -> np.ndarray:
    """Test features of all tasks, as a method reads them."""
    opened = before_projection(opened, pre)
    parts = [cache.patches("test") if patches else cache.features("test", views=0)[:, 0] for cache in opened]
    return np.concatenate(parts).astype(np.float32)


@torch.no_grad()
def scores_of(classifier: Classifier, features: np.ndarray) -> np.ndarray:
    return classifier.scores(torch.from_numpy(features)).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_comes_back(bench: RunBench, opened: list[FeatureCache], method: str) -> None:
    config = least(method)
    folder = bench.train("runs", config)
    results, trained = results_of(folder), learn_in_memory(config, bench.backbone, opened)
    run = cptlite.load_run(folder)
    assert run.evaluate(opened) == results["tasks"]
    features = features_of(opened, METHODS[method].needs_patches, METHODS[method].needs_pre_projection)
    wanted = scores_of(trained.classifier, features)
    assert wanted.shape == (len(features), 7)
    assert run.scores(features).tobytes() == wanted.tobytes()
    assert run.class_names_ == [name for names in DATASETS.values() for name in names]
    assert run.tasks_ == tuple(task for cache in opened for task in cache.tasks)
    assert run.choices_ == results["choices"] == trained.choices
    assert run.num_parameters_ == results["parameters"] == trained.num_parameters
    assert run.results_ == results
    assert run.config_ == config and run.method == method and run.backbone is None
    assert run.backbone_.weights_sha256 == bench.backbone.weights_sha256
    again = cptlite.FewShotClassifier(**{**run.get_params(), "backbone": bench.backbone})
    assert again.fit(opened).scores(features).tobytes() == wanted.tobytes(), "its options make the same run"


# In a new process

IN_A_NEW_PROCESS = """
import json, sys
import numpy as np
import torch
import cptlite, cptlite.backbones

def load(*words, load=cptlite.backbones.load_backbone, **options):
    loaded.append(words)
    return load(*words, **options)

cptlite.backbones.load_backbone = load
runs, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
for place in json.loads(runs):
    loaded = []
    run = cptlite.load_run(place + "/run")
    features = np.load(place + "/features.npy")
    np.save(place + "/scores.npy", run.scores(features))
    best = {task.id: run.predict(features[:3], task.id).tolist() for task in run.tasks_}
    print(json.dumps([run.classifier_.kind, len(loaded), best]))
"""
EVERY_KIND = {
    "linear": ("kgcoop", tuple(DATASETS)),
    "linear with biases": ("linear-probe", tuple(DATASETS)),
    "tip": ("tip-adapter-f", tuple(DATASETS)),
    "transport": ("plot", ("leaves",)),
    "joined transport": ("plot", tuple(DATASETS)),
    "image-conditioned": ("cocoop", ("leaves",)),
    "joined image-conditioned": ("cocoop", tuple(DATASETS)),
}


@pytest.mark.slow
def test_another_process_scores_every_kind_the_same_without_caches(
    backbone: Backbone, caches: Path, tmp_path: Path
) -> None:
    bench = RunBench(backbone, tmp_path / "cache", tmp_path)
    shutil.copytree(caches, bench.caches)
    wanted = {}
    for kind, (method, datasets) in EVERY_KIND.items():
        config = least(method, datasets=datasets)
        folder = bench.train("runs", config)
        own = open_caches(bench.caches, backbone, datasets)
        classifier, features = learn_in_memory(config, backbone, own).classifier, features_of(own, method == "plot")
        for cache in own:
            cache.close()
        (tmp_path / kind).mkdir()
        np.save(tmp_path / kind / "features.npy", features)
        folder.rename(tmp_path / kind / "run")
        wanted[kind] = classifier.kind, scores_of(classifier, features)
    bench.caches.rename(tmp_path / "gone")
    places = json.dumps([str(tmp_path / kind) for kind in EVERY_KIND])
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, places, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line, (kind, (method, datasets)) in zip(done.stdout.splitlines(), EVERY_KIND.items(), strict=True):
        tag, loaded, best = json.loads(line)
        assert tag == wanted[kind][0] and tag in kind
        assert loaded == (method == "cocoop"), "a text encoder is wanted by that alone, and once"
        assert np.load(tmp_path / kind / "scores.npy").tobytes() == wanted[kind][1].tobytes(), kind
        assert {task: set(names) <= set(DATASETS[task]) for task, names in best.items()} == dict.fromkeys(
            datasets, True
        )


@pytest.mark.parametrize("text_path", ["fused", "plain"])
def test_prompts_are_encoded_as_the_run_encoded_them(
    bench: RunBench, opened: list[FeatureCache], monkeypatch: pytest.MonkeyPatch, text_path: str
) -> None:
    loaded: list[tuple[str, dict[str, str]]] = []

    def load(name: str, **options: str) -> Backbone:
        loaded.append((name, options))
        return load_backbone(name, **options)

    monkeypatch.setattr("cptlite.runs.load.load_backbone", load)
    config = least("cocoop", text_path=text_path)
    folder = bench.train("runs", config)
    assert not loaded
    run = cptlite.load_run(folder)
    how = {"device": "cpu", "precision": "float32", "linear_backend": "auto"}
    assert loaded == [(BACKBONE, how)], "once for all tasks"
    features = features_of(opened, patches=False)
    wanted = scores_of(learn_in_memory(config, bench.backbone, opened).classifier, features)
    assert run.scores(features).tobytes() == wanted.tobytes()


def test_no_backbone_is_loaded_where_scores_need_none(bench: RunBench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.train("runs", least("softcpt"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a backbone was loaded")

    monkeypatch.setattr("cptlite.runs.load.load_backbone", refuse)
    assert cptlite.load_run(str(folder)).scores(np.ones((1, 128))).shape == (1, 7)


# What cannot be read


@pytest.fixture(scope="module")
def finished(backbone: Backbone, caches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a run by method; tests work on copies."""
    bench = RunBench(backbone, caches, tmp_path_factory.mktemp("finished"))
    return {method: bench.train("runs", least(method, datasets=("leaves",))) for method in ("coop-ca", "cocoop")}


def copy_run(finished: dict[str, Path], tmp_path: Path, method: str = "coop-ca") -> Path:
    return Path(shutil.copytree(finished[method], tmp_path / "run"))


def refused(folder: Path) -> str:
    """The one message of a run that is not read."""
    with pytest.raises(DataError) as error:
        cptlite.load_run(folder)
    message = str(error.value)
    assert message.startswith("wanted ") and "\n" not in message and str(folder) in message
    assert error.value.__cause__ is None and error.value.exit_code == 3
    return message


@pytest.mark.parametrize("missing", [("results.json",), ("config.json",), ("classifier.safetensors", "results.json")])
def test_an_unfinished_run_is_refused(finished: dict[str, Path], tmp_path: Path, missing: tuple[str, ...]) -> None:
    folder = copy_run(finished, tmp_path)
    for name in missing:
        (folder / name).unlink()
    message = refused(folder)
    assert f"found no {' and no '.join(missing)}: give the folder" in message
    assert "run the same command again" in message


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "found no config.json and no classifier.safetensors and no results.json" in refused(tmp_path / "nothing")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file")


def changed(name: str, **entries: Any) -> Callable[[Path], None]:
    """Change entries of a JSON file; of the configuration, those of the run."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        table = content["config"] if name == "config.json" else content
        table.update({key: value for key, value in entries.items() if value is not None})
        for key in (key for key, value in entries.items() if value is None):
            del table[key]
        (folder / name).write_text(json.dumps(content))

    return spoil


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def flipped(folder: Path) -> None:
    """Damage one byte of a tensor."""
    content = bytearray((folder / "classifier.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "classifier.safetensors").write_bytes(content)


def cut(folder: Path) -> None:
    content = (folder / "classifier.safetensors").read_bytes()
    (folder / "classifier.safetensors").write_bytes(content[: len(content) // 2])


def foreign(folder: Path) -> None:
    save_file(load_file(folder / "prompts.safetensors"), folder / "classifier.safetensors")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (replaced("config.json", b'{"config": '), "config.json, got a damaged file"),
        (replaced("config.json", b"\xff\xfe"), "config.json, got a damaged file"),
        (replaced("config.json", b"[" * 100_000), "config.json, got a damaged file"),
        (replaced("config.json", b"{}"), "config.json, got a damaged file"),
        (replaced("config.json", b'{"config": []}'), "config.json, got one that cannot be read"),
        (replaced("config.json", b'{"config": {}}'), "config.json, got one that cannot be read (none for 'method')"),
        (changed("config.json", suite=None), "config.json, got one that cannot be read (none for 'suite')"),
        (changed("config.json", method="coop"), "(unknown method 'coop': did you mean 'kgcoop'?)"),
        (changed("config.json", method=["coop-ca"]), "config.json, got one that cannot be read"),
        (changed("config.json", method=5), "config.json, got one that cannot be read"),
        (changed("config.json", shot=2), "(coop-ca has no option 'shot': did you mean 'shots'?)"),
        (changed("config.json", epochs=-1), "(epochs must be a whole number of at least 1, got -1)"),
        (changed("config.json", epochs="1"), "(epochs must be a whole number of at least 1, got '1')"),
        (changed("config.json", datasets="leaves"), "(datasets must be a list of texts, got 'leaves')"),
        (changed("config.json", datasets=7), "config.json, got one that cannot be read"),
        (changed("config.json", backbone=7), "(backbone must be a text, got 7)"),
        (replaced("results.json", b'{"tasks": {'), "results.json, got a damaged file"),
        (replaced("results.json", b"[]"), "results.json, got a damaged file"),
        (changed("results.json", tasks=None), "results.json, got a damaged file"),
        (changed("results.json", choices=None), "results.json, got a damaged file"),
        (changed("results.json", parameters=None), "results.json, got a damaged file"),
        (replaced("classifier.safetensors", b""), "classifier.safetensors, got a file that cannot be read"),
        (cut, "classifier.safetensors, got a file that cannot be read"),
        (flipped, "classifier.safetensors, got a damaged file, whose checksum"),
        (foreign, "classifier.safetensors, got a safetensors file of something else"),
    ],
)
def test_a_damaged_run_is_refused(
    finished: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = copy_run(finished, tmp_path)
    assert cptlite.load_run(folder).scores(np.ones((1, 128))).shape == (1, 3)
    spoil(folder)
    assert says in refused(folder)


def test_other_weights_under_the_backbones_name_are_refused(
    finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_run(finished, tmp_path, "cocoop")
    monkeypatch.setattr(
        "cptlite.runs.load.load_backbone", lambda name, **options: load_backbone(f"{name}:1", **options)
    )
    with pytest.raises(DataError, match=rf"wanted the weights that were '{BACKBONE}' .* got others .*put those back"):
        cptlite.load_run(folder)
    cptlite.load_run(copy_run(finished, tmp_path / "second"))  # its scores need none


def test_a_path_that_a_run_names_is_opened_only_if_it_is_given(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in load_backbone(BACKBONE).model.state_dict().items()}, weights)
    own = load_backbone(str(weights))
    bench = RunBench(own, encode_datasets(own, tmp_path), tmp_path)
    folder = bench.train("runs", least("cocoop", backbone=str(weights)))
    with pytest.raises(UsageError, match="names the checkpoint .* only opened if you give it"):
        cptlite.load_run(folder)
    model = cptlite.load_run(folder, backbone=str(weights))
    features = np.random.default_rng(0).standard_normal((3, own.embed_dim), np.float32)
    assert np.isfinite(model.scores(features)).all()
    assert np.array_equal(pickle.loads(pickle.dumps(model)).scores(features), model.scores(features))
    weights.rename(tmp_path / "moved.safetensors")
    moved = cptlite.load_run(folder, backbone=str(tmp_path / "moved.safetensors"))
    assert np.array_equal(moved.scores(features), model.scores(features))
    with pytest.raises(DataError, match="got others"):
        cptlite.load_run(folder, backbone="random:demo:5")
